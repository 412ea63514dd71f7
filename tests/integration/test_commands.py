"""The commands on real files: what a physicist types, and what is on stdout, on disk and in the exit code afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas.cli import main

SKLEARN = """from sklearn.ensemble import HistGradientBoostingClassifier


def model(idim):
    return HistGradientBoostingClassifier(max_iter=20, random_state=1)
"""


@pytest.fixture(scope="module")
def flags(tth, tmp_path_factory):
    """The flags of a workflow that trains in a second."""
    model = tmp_path_factory.mktemp("model") / "model.py"
    model.write_text(SKLEARN)
    return [*(f"--{name}={tth / f'{name}.txt'}" for name in ("files", "labels")), f"--params={tth / 'params.json'}",
            f"--preproc={tth / 'preproc.json'}"], f"--model={model}"  # fmt: skip


@pytest.fixture(scope="module")
def bundle(flags, tmp_path_factory):
    """A trained bundle."""
    out = tmp_path_factory.mktemp("bundle") / "ttH"
    assert main(["workflow", *flags[0], flags[1], f"--fout={out}"]) == 0
    return out


def one_sentence(capsys, *arguments):
    """The command ends with 2 and one sentence, which is returned."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("mlaas: ") == 1, err
    return err


def test_inspect(tth, capsys):
    assert main(["inspect", str(tth / "signal.root"), "--tree=events"]) == 0
    table = capsys.readouterr().out
    assert "2,000 events, 77 branches" in table
    assert main(["inspect", str(tth / "signal.root"), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    found = {branch["name"]: branch for branch in document["branches"]}
    with uproot.open(tth / "signal.root") as file:
        jets = file["events/jet_pt"].array()
        assert found["jet_pt"]["max"] == float(np.max(jets))
        assert found["jet_pt"]["longest"] == max(map(len, jets))
        assert found["jet_pt"]["kind"] == "jagged"
        assert found["njet"]["kind"] == "flat"
    assert main(["inspect", str(tth / "signal.root"), "--json", "--no-ranges"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["branches"][0]["max"] is None


def test_inspect_names_the_nearest(tth, capsys):
    assert "did you mean 'events'?" in one_sentence(capsys, "inspect", tth / "signal.root", "--tree=event")
    assert "there is no file" in one_sentence(capsys, "inspect", tth / "signals.root")


def test_specs(flags, tmp_path, capsys):
    fout = tmp_path / "specs.json"
    assert main(["specs", *flags[0], f"--fout={fout}"]) == 0
    table = capsys.readouterr().out
    assert main(["specs", *flags[0], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(fout.read_text())
    assert set(printed) >= {"jdim", "minv", "maxv", "fkeys", "jkeys", "nans", "events"}
    assert all(name in table for name in (*printed["fkeys"], *printed["jkeys"]))
    assert [path.name for path in tmp_path.iterdir()] == ["specs.json"]


def test_specs_into_a_missing_folder(flags, tmp_path, capsys):
    assert "cannot be written" in one_sentence(capsys, "specs", *flags[0], f"--fout={tmp_path / 'none' / 'specs.json'}")


def test_prepare_then_fit_in_two_processes(flags, tth, tmp_path, capsys):
    """The second process needs only the shared cache: the data may be gone."""
    cache = {**os.environ, "MLAAS_CACHE": str(tmp_path / "shared")}

    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "mlaas.cli", *arguments], capture_output=True, text=True, env=cache, check=False)

    assert run("prepare", *flags[0]).returncode == 0
    again = run("prepare", *flags[0])
    assert "2 of 2 files were not read again" in again.stdout
    done = run("fit", *flags[0], flags[1], f"--fout={tmp_path / 'ttH'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ttH" / "manifest.json").is_file()
    assert "auc" in done.stdout


def test_workflow_writes_a_bundle_and_nothing_else(bundle):
    assert [path.name for path in bundle.parent.iterdir()] == ["ttH"]
    assert {"manifest.json", "features.json", "specs.json", "metrics.json", "workflow.json", "model.py", "report"} <= {
        path.name for path in bundle.iterdir()
    }
    assert 0.7 < json.loads((bundle / "metrics.json").read_text())["metrics"]["test"]["auc"] < 0.95
    assert json.loads((bundle / "manifest.json").read_text())["name"] == "ttH"


def test_workflow_does_not_overwrite_what_is_no_bundle(flags, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    assert "is not a bundle" in one_sentence(capsys, "workflow", *flags[0], flags[1], f"--fout={tmp_path / 'mine'}")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "all of it"


@pytest.mark.parametrize("engine", ["auto", "native"])
def test_predict_writes_a_friend_aligned_by_entry(bundle, tth, tmp_path, capsys, engine):
    assert main(["predict", str(bundle), str(tth / "signal.root"), str(tth / "background.root"), f"--output={tmp_path}", f"--engine={engine}"]) == 0
    paths = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[1] for path in paths] == ["signal.scores.root", "background.scores.root"]
    scores = []
    for path, name in zip(paths, ("signal", "background"), strict=True):
        with uproot.open(path) as file, uproot.open(tth / f"{name}.root") as source:
            (key,) = set(file.keys(cycle=False, recursive=False))
            tree = file[key]
            assert tree.num_entries == source["events"].num_entries
            scores.append({branch: tree[branch].array(library="np") for branch in tree.keys()})  # noqa: SIM118
    floats = [name for name, values in scores[0].items() if values.dtype.kind == "f"]
    assert any(np.nanmean(scores[0][name]) > np.nanmean(scores[1][name]) + 0.1 for name in floats)


def test_predict_parquet_equals_root(bundle, tth, tmp_path, capsys):
    for form in ("root", "parquet"):
        assert main(["predict", str(bundle), str(tth / "signal.root"), f"--output={tmp_path}", f"--format={form}"]) == 0
    table = pq.read_table(tmp_path / "signal.scores.parquet")
    with uproot.open(tmp_path / "signal.scores.root") as file:
        tree = file[file.keys(recursive=False)[0]]
        shared = set(table.column_names) & set(tree.keys())
        assert shared
        for name in shared:
            np.testing.assert_array_equal(table[name].to_numpy(), tree[name].array(library="np"))


def test_predict_refuses_what_it_cannot_do(bundle, tth, tmp_path, capsys):
    assert "none" in one_sentence(capsys, "predict", tmp_path / "none", tth / "signal.root")
    assert "there is no file" in one_sentence(capsys, "predict", bundle, tth / "none.root", f"--output={tmp_path}")
    assert "did you mean" in one_sentence(capsys, "predict", bundle, tth / "signal.root", "--tree=event", f"--output={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_replay_agrees_and_needs_trust(bundle, tmp_path, capsys):
    assert "--trust" in one_sentence(capsys, "replay", bundle)
    assert main(["replay", str(bundle), "--trust", f"--fout={tmp_path / 'again'}"]) == 0
    out = capsys.readouterr().out
    assert "the two trainings agree" in out
    assert (tmp_path / "again" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\n", "model"),
        ("def model(idim):\n    raise ValueError('too deep')\n", "too deep"),
        ("def model(idim):\n    return 3\n", "int"),
        ("def model(idim)\n", "model.py"),
    ],
)
def test_a_model_that_is_none_leaves_nothing_behind(flags, tmp_path, capsys, code, says):
    (tmp_path / "model.py").write_text(code)
    assert says in one_sentence(capsys, "workflow", *flags[0], f"--model={tmp_path / 'model.py'}", f"--fout={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_run_stopped_by_a_signal_leaves_no_bundle(flags, tmp_path):
    slow = tmp_path / "model.py"
    slow.write_text("import pathlib, time\n\n\ndef model(idim):\n    pathlib.Path(__file__).with_name('begun').touch()\n    time.sleep(120)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "mlaas.cli", "workflow", *flags[0], f"--model={slow}", f"--fout={tmp_path / 'out'}"], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "mlaas: stopped" in err
    assert not (tmp_path / "out").exists()
