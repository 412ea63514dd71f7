"""The commands against a real service: submit, follow, look, predict, download, share, cancel, delete."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import uproot

from mlaas.client import Client, ServiceError
from mlaas.demo.events import draw
from mlaas.models.bundle import read_bundle
from mlaas.models.predict import Predictor
from tests.support.serve import serving

MODEL = "from sklearn.linear_model import LogisticRegression\n\n\ndef model(idim):\n    return LogisticRegression(max_iter=200)\n"
SLOW = "import time\n\n\ndef model(idim):\n    print('the model is being made', flush=True)\n    time.sleep(600)\n"
FLAGS = ("--files=lists/files.txt", "--labels=labels.txt", "--model=model.py", "--params=params.json")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service of this module."""
    with serving(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tth):
    """A physicist's folder, with its list of files in a folder of its own."""
    made = tmp_path_factory.mktemp("work") / "Higgs analysis"
    (made / "lists").mkdir(parents=True)
    for name in ("signal.root", "background.root"):
        copyfile(tth / name, made / name)
    (made / "lists" / "files.txt").write_text("# samples\nsignal.root\nbackground.root\n")
    (made / "labels.txt").write_text("1\n0\n")
    (made / "model.py").write_text(MODEL)
    (made / "slow.py").write_text(SLOW)
    params = json.loads((tth / "params.json").read_text())
    (made / "params.json").write_text(json.dumps(params | {"epochs": 1}))
    (made / "large.bin").write_bytes(b"x" * 1000)
    return made


@pytest.fixture(scope="module")
def trained(service, folder):
    """The name of a job that trained a model, and what its submission wrote."""
    done = service.command("submit", *FLAGS, "--follow", "--cpus=1", "--memory=2GB", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr + service.said()
    return done.stdout.splitlines()[0], done


class TestTraining:
    def test_what_one_sees(self, service, trained):
        name, done = trained
        assert name == "Higgs-analysis_1"
        assert "uploaded 6 files, " in done.stderr
        assert f"mlaas: {name} running" in done.stderr
        assert f"mlaas: {name} succeeded after " in done.stderr
        assert "model Higgs-analysis@1; get it with: mlaas models download Higgs-analysis" in done.stderr
        assert "bundle   model" in done.stdout
        assert done.stdout == f"{name}\n{service.ok('logs', name)}"
        assert service.ok("logs", name, "--tail=1") == done.stdout.splitlines(keepends=True)[-1]

    def test_only_what_is_needed_was_uploaded(self, service, trained):
        files = json.loads(service.ok("workspaces", "files", "Higgs-analysis", "--json"))
        names = ["background.root", "labels.txt", "lists/files.txt", "model.py", "params.json", "signal.root"]
        assert sorted(file["path"] for file in files) == names

    def test_looking_at_it(self, service, trained):
        name = trained[0]
        head, row = service.ok("jobs").splitlines()[:2]
        assert head.split()[:5] == ["JOB", "KIND", "STATE", "MODEL", "CREATED"]
        assert row.split()[:4] == [name, "train", "succeeded", "Higgs-analysis@1"]
        assert service.ok("jobs", "--state=failed") == ""
        job = json.loads(service.ok("job", name, "--json"))
        assert (job["cpus"], job["memory"], job["version"]) == (1, 2 * 10**9, 1)
        told = service.ok("job", name)
        assert re.search(r"^asked for +1 CPU, 2 GB memory", told, re.MULTILINE)
        assert "auc 0." in told[told.index("\ntest ") :]
        assert [one["process_name"] for one in json.loads(service.ok("jobs", "--json", "--kind=train", "--limit=1"))] == [name]

    def test_again_nothing_is_uploaded(self, service, folder, trained):
        done = service.command("submit", *FLAGS, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "the workspace Higgs-analysis is up to date" in done.stderr
        assert "follow it with: mlaas logs -f " in done.stderr
        service.ok("cancel", done.stdout.strip())
        with pytest.raises(AssertionError, match="you have no workspace 'elsewhere'"):
            service.ok("submit", *FLAGS, "--workspace=elsewhere", "--no-upload", cwd=folder)

    def test_a_whole_folder(self, service, folder):
        job = json.loads(service.ok("submit", *FLAGS, f"--folder={folder}", "--exclude=*.bin", "--workspace=whole", "--json"))
        assert (job["workspace"], job["model"], job["state"]) == ("whole", "whole", "queued")
        service.ok("cancel", job["id"])
        paths = {file["path"] for file in json.loads(service.ok("workspaces", "files", "whole", "--json"))}
        assert {"slow.py", "lists/files.txt"} <= paths
        assert "large.bin" not in paths
        service.ok("workspaces", "delete", "whole")

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (("--files=nothing.txt",), "files: there is no file nothing.txt"),
            (("--model=modl.py",), "did you mean 'model.py'?"),
            (("--model=../model.py",), "is not in "),
            (("--params=large.bin",), "params"),
            (("--labels=1",), "labels"),
            (("--cpus=1000",), "cpus"),
            (("--memory=lots",), "memory"),
            (("--device=gpu",), "device"),
            (("--server=http://127.0.0.1:1",), "cannot be reached: "),
            (("--server=http://example.org",), "unencrypted"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, service, folder, flags, says):
        (folder.parent / "model.py").write_text(MODEL)
        before = service.ok("jobs", "--json")
        done = service.command("submit", *FLAGS, *flags, cwd=folder)
        assert done.returncode == 2
        assert says in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert service.ok("jobs", "--json") == before

    def test_a_job_that_fails(self, service, folder):
        (folder / "broken.py").write_text("def model(idim):\n    raise ValueError('too many columns')\n")
        done = service.command("submit", *FLAGS, "--model=broken.py", "--workspace=broken", "--follow", cwd=folder)
        assert done.returncode == 2
        assert "too many columns" in done.stderr.splitlines()[-1]
        assert done.stderr.splitlines()[-1].startswith("mlaas: broken_1 failed: ")
        assert service.ok("models").count("broken") == 0

    def test_ctrl_c_and_the_servers_end_leave_the_job(self, service, folder):
        command = [sys.executable, "-m", "mlaas.cli", "submit", *FLAGS, "--model=slow.py", "--workspace=slow", "--follow"]
        with subprocess.Popen(command, cwd=folder, env=service.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert any("the model is being made" in line for line in process.stdout)
            process.send_signal(signal.SIGINT)
            err = process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert err.splitlines()[-1] == "mlaas: slow_1 goes on; follow it again: mlaas logs -f slow_1; stop it: mlaas cancel slow_1"
        assert json.loads(service.ok("job", "slow_1", "--json"))["state"] == "running"
        self.follows_across_a_crash(service)
        done = service.command("logs", "-f", "slow_1")
        assert (done.returncode, done.stderr.splitlines()[-1][:23]) == (2, "mlaas: slow_1 cancelled")
        assert service.ok("delete", "slow_1") == "slow_1  deleted\n"
        assert service.command("job", "slow_1").returncode == 2

    def follows_across_a_crash(self, service):
        """Following goes on where it broke when the server is killed; a job that runs cannot be deleted, but cancelled."""
        text, ended = "", {}
        with Client(service.url, token=service.token) as client:
            for event in client.jobs.follow("slow_1"):
                text, ended = text + event.text, event.data
                if "being made" in event.text:
                    os.kill(service.parts()["server"], signal.SIGKILL)
                    with pytest.raises(ServiceError) as caught:
                        client.jobs.delete("slow_1")
                    assert caught.value.status == 409
                    assert service.ok("cancel", "slow_1") == "slow_1  is being cancelled\n"
        assert text.count("the model is being made") == 1
        assert ended["state"] == "cancelled"


class TestModels:
    def test_list_and_show(self, service, trained):
        assert service.ok("models").splitlines()[1].split()[:3] == ["Higgs-analysis", "1", "1"]
        shown = json.loads(service.ok("models", "show", "Higgs-analysis", "--json"))
        assert shown["versions"][0]["framework"] == "sklearn"
        assert "sklearn" in service.ok("models", "show", "Higgs-analysis")

    def test_download(self, service, trained, tmp_path):
        assert service.ok("models", "download", "Higgs-analysis@1", "--output=best", cwd=tmp_path) == "best\n"
        assert read_bundle(tmp_path / "best").manifest.framework == "sklearn"
        done = service.command("models", "download", "Higgs-analysis", "--output=best", cwd=tmp_path)
        assert (done.returncode, "exists already" in done.stderr) == (2, True)
        assert service.ok("models", "download", "Higgs-analysis", "--archive", cwd=tmp_path) == "Higgs-analysis.tar.gz\n"
        assert "<html" in Path(tmp_path, service.ok("models", "report", "Higgs-analysis", cwd=tmp_path).strip()).read_text()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["Higgs-analysis-report.html", "Higgs-analysis.tar.gz", "best"]

    def test_aliases_and_sharing(self, service, trained):
        assert service.ok("models", "alias", "Higgs-analysis", "production") == "Higgs-analysis@production  is version 1\n"
        assert "its members call it local:Higgs-analysis" in service.ok("models", "share", "Higgs-analysis", "/cms/higgs")
        row = service.ok("models").splitlines()[1]
        assert "production=1" in row
        assert "/cms/higgs" in row
        assert "0." in service.ok("predict", "Higgs-analysis@production", "--events=-", given=json.dumps(columns(1)))
        service.ok("models", "share", "Higgs-analysis", "/cms/higgs", "--remove")
        service.ok("models", "alias", "Higgs-analysis", "production", "--remove")
        assert "production" not in service.ok("models")

    def test_deleting(self, service, trained):
        done = service.command("models", "delete", "Higgs-analysis")
        assert (done.returncode, "--all" in done.stderr) == (2, True)
        assert service.command("models", "delete", "Higgs-analysis@7").returncode == 2
        assert service.ok("models").count("Higgs-analysis") == 1


def columns(events: int) -> dict[str, list]:
    """Raw events as a user would have them."""
    drawn = draw(events, "signal", profile="seed", seed=5)
    return {name: column.lists() if hasattr(column, "lists") else column.tolist() for name, column in drawn.data.items()}


class TestPredictions:
    def test_events(self, service, trained, tmp_path):
        events = columns(5)
        (tmp_path / "events.json").write_text(json.dumps(events))
        service.ok("models", "download", "Higgs-analysis", f"--output={tmp_path / 'bundle'}")
        expected = Predictor(tmp_path / "bundle").predict(events)
        printed = service.ok("predict", "Higgs-analysis", f"--events={tmp_path / 'events.json'}")
        assert np.allclose([float(line) for line in printed.split()], expected, atol=1e-5)
        answer = json.loads(service.ok("predict", "Higgs-analysis", "--events=-", "--json", given=json.dumps([{k: v[0] for k, v in events.items()}])))
        assert (answer["model"], answer["version"]) == ("Higgs-analysis", 1)
        assert np.allclose(answer["scores"], expected[:1], atol=1e-5)
        with Client(service.url, token=service.token) as client:
            assert np.allclose(
                client.predict("Higgs-analysis@1", {name: np.array(value, dtype=object) for name, value in events.items()}).scores,
                expected,
                atol=1e-5,
            )

    def test_files_of_this_machine(self, service, trained, folder, tmp_path):
        server = f"--server={service.url}"
        done = service.command("predict", "Higgs-analysis", "signal.root", f"--output={tmp_path / 'scores'}", server, cwd=folder)
        assert done.returncode == 0, done.stderr + service.said()
        path = Path(done.stdout.strip())
        assert path.parent == tmp_path / "scores"
        service.ok("models", "download", "Higgs-analysis", f"--output={tmp_path / 'bundle'}")
        service.ok("predict", str(tmp_path / "bundle"), str(folder / "signal.root"), f"--output={tmp_path / 'local'}")
        with uproot.open(path) as ours, uproot.open(tmp_path / "local" / path.name) as local:
            tree = ours.keys(cycle=False)[0]
            for name in ours[tree].keys():  # noqa: SIM118 - of ROOT
                assert np.allclose(ours[tree][name].array(library="np"), local[tree][name].array(library="np"), atol=1e-6)
        assert "predict-" not in service.ok("workspaces")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("nothing", "--events=-"), "nothing"),
            (("nothing", "signal.root"), "there is no bundle nothing here, and as a model of the service"),
            (("Higgs-analysis",), "one of the two"),
            (("Higgs-analysis", "none.root"), "there is no file none.root"),
            (("Higgs-analysis", "--events=model.py"), "is not JSON"),
            (("Higgs-analysis", "signal.root", "--trust"), "--trust is for bundles"),
            (("Higgs-analysis@9", "--events=-"), "9"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, service, trained, folder, arguments, says):
        done = service.command("predict", *arguments, cwd=folder, given="{}")
        assert done.returncode == 2
        assert says in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr


def test_who_one_is(service):
    me = json.loads(service.ok("whoami", "--json"))
    assert (me["tenant"], sorted(me["roles"])) == ("local", ["admin", "user"])
    assert f"server       {service.url}" in service.ok("whoami")


def test_an_embedded_token_can_be_kept(service, tmp_path):
    home = {"XDG_CONFIG_HOME": str(tmp_path), "MLAAS_DATA": str(tmp_path / "none")}
    done = service.command("whoami", f"--server={service.url}", **home)
    assert (done.returncode, "mlaas login" in done.stderr) == (2, True)
    done = service.command("login", f"--server={service.url}", "--token-file=-", given="not-the-token\n", **home)
    assert (done.returncode, (tmp_path / "mlaas").exists()) == (2, False)
    assert "signed in at" in service.ok("login", f"--server={service.url}", "--token-file=-", given=service.token + "\n", **home)
    assert json.loads(service.ok("whoami", "--json", **home))["tenant"] == "local"
