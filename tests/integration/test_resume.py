"""Stopped by a signal or killed at any time: what is left, what the exit code says, and how `--resume` goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlaas.models.bundle import read_bundle
from tests.integration.jobs import done, mlaas, start, toys, write_job, write_root

EPOCHS = 40
PARAMS = {"selected_branches": "mva,met,partonPt", "epochs": EPOCHS, "batch_size": 20, "chunk_size": 200, "shuffle": True, "split": 0.2}


@pytest.fixture
def job(tmp_path, monkeypatch) -> list[str]:
    """The flags of a training that goes on for some seconds and writes a checkpoint after every epoch."""
    monkeypatch.setenv("MLAAS_CACHE", str(tmp_path / "cache"))
    files = [write_root(tmp_path / f"{label}.root", toys(900, label)) for label in (1, 0)]
    flags = write_job(tmp_path / "job", files, [1, 0], "mlp", PARAMS)
    (tmp_path / "place").mkdir()
    return [*flags, f"--fout={tmp_path / 'place' / 'ttH'}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    """The figures of the same training when nobody stops it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    files = [write_root(folder / f"{label}.root", toys(900, label)) for label in (1, 0)]
    done("workflow", *write_job(folder / "job", files, [1, 0], "mlp", PARAMS), f"--fout={folder / 'ttH'}")
    return metrics(folder / "ttH")


def metrics(bundle: Path) -> dict:
    return json.loads((bundle / "metrics.json").read_text())["metrics"]


def wait(ready: Callable[[], object], process, seconds: float = 120) -> None:
    """Wait until something is so; the process must live then."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()


def stop(process, number: signal.Signals) -> tuple[int, str]:
    """Send a signal to the whole group, as a terminal does with Ctrl-C, and see that nothing of it lives on."""
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return process.returncode, err


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def epochs(stream: Path) -> list[int]:
    """The epochs that the metrics stream tells of; a line that is being written does not count."""
    lines = stream.read_text().splitlines(keepends=True) if stream.exists() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("\n") and '"epoch"' in line and json.loads(line)["kind"] == "epoch"]


def is_whole(bundle: Path) -> None:
    """The bundle of a complete training, and nothing beside it."""
    read_bundle(bundle)
    assert json.loads((bundle / "metrics.json").read_text())["epochs"] == EPOCHS
    assert epochs(bundle / "metrics.jsonl") == list(range(1, EPOCHS + 1))
    assert names(bundle.parent) == {bundle.name}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_while_reading(job, tmp_path, number):
    handled = tmp_path / "cache" / "handled"
    process = start("workflow", *job)
    wait(lambda: handled.is_dir() and any(handled.iterdir()), process)
    code, err = stop(process, number)
    assert not (tmp_path / "place" / "ttH").exists()
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert err.splitlines()[-1].startswith("mlaas: stopped")
        assert "Traceback" not in err
        assert names(tmp_path / "place") == set()
        assert not [name for name in names(handled) if name.startswith(".")]
        return
    done("workflow", *job, "--resume")
    is_whole(tmp_path / "place" / "ttH")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_while_training(job, undisturbed, tmp_path, number):
    """The resumed training ends with every epoch, and with the figures of one that was never stopped."""
    running = tmp_path / "place" / ".ttH.run"
    process = start("workflow", *job)
    wait(lambda: len(epochs(running / "metrics.jsonl")) >= 4, process)
    code, err = stop(process, number)
    assert names(tmp_path / "place") == {".ttH.run"}
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        sentence = err.splitlines()[-1]
        assert sentence.startswith("mlaas: the training was stopped in epoch")
        assert "--resume" in sentence
        assert "Traceback" not in err
        assert names(running) == {"checkpoint.zip", "metrics.jsonl"}
    reached = len(epochs(running / "metrics.jsonl"))
    assert 4 <= reached < EPOCHS
    if number == signal.SIGTERM:  # what is left is as after Ctrl-C
        return
    done("workflow", *job, "--resume")
    is_whole(tmp_path / "place" / "ttH")
    assert metrics(tmp_path / "place" / "ttH") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_while_writing_the_bundle(job, tmp_path, number):
    """Nothing is trained again afterwards."""
    place = tmp_path / "place"
    process = start("workflow", *job)
    wait(lambda: any(name.startswith(".ttH.tmp-") for name in names(place)), process)
    code, err = stop(process, number)
    if number == signal.SIGKILL:
        assert not (place / "ttH").exists()
    else:
        assert code == 130
        assert "--resume" in err.splitlines()[-1]
        assert names(place) == {".ttH.run"}
    before = (place / ".ttH.run" / "metrics.jsonl").read_bytes()
    done("workflow", *job, "--resume")
    is_whole(place / "ttH")
    assert (place / "ttH" / "metrics.jsonl").read_bytes() == before


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether it has its own answer to SIGTERM, which Python has not."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_at_odd_moments(job, tmp_path):
    """Wherever Ctrl-C falls once the command listens, also while libraries are imported: code 130 and no traceback."""
    for delay in (0.1, 1.0):
        process = start("workflow", *job)
        wait(lambda process=process: listens(process), process)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert not [name for name in names(tmp_path / "place") if ".tmp" in name or name == "ttH"]


def test_without_resume_it_begins_anew(job, tmp_path):
    running = tmp_path / "place" / ".ttH.run"
    process = start("workflow", *job)
    wait(lambda: len(epochs(running / "metrics.jsonl")) >= 2, process)
    stop(process, signal.SIGKILL)
    done("workflow", *job)
    is_whole(tmp_path / "place" / "ttH")


def test_resume_with_other_parameters_is_refused(job, tmp_path):
    running = tmp_path / "place" / ".ttH.run"
    process = start("workflow", *job)
    wait(lambda: len(epochs(running / "metrics.jsonl")) >= 2, process)
    stop(process, signal.SIGKILL)
    params = tmp_path / "job" / "params.json"
    before = params.read_text()
    params.write_text(before.replace('"batch_size": 20', '"batch_size": 30'))
    ended = mlaas("workflow", *job, "--resume")
    assert ended.code == 2
    assert "batch_size was 20, is 30" in ended.sentence
    params.write_text(before)  # the checkpoint was not touched
    done("workflow", *job, "--resume")
    is_whole(tmp_path / "place" / "ttH")


def test_two_runs_do_not_write_the_same_bundle(job, tmp_path):
    """The second is refused; the first goes on undisturbed."""
    running = tmp_path / "place" / ".ttH.run"
    process = start("workflow", *job)
    wait(lambda: len(epochs(running / "metrics.jsonl")) >= 2, process)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        others = [mlaas("workflow", *job, *more) for more in ([], ["--resume"])]
    finally:
        os.kill(process.pid, signal.SIGCONT)
    for ended in others:
        assert ended.code == 2
        assert "is being written by another run" in ended.sentence
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    is_whole(tmp_path / "place" / "ttH")


def test_what_only_looks_like_a_bundle_is_not_replaced(job, tmp_path):
    other = tmp_path / "place" / "ttH"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "an extension of a browser", "manifest_version": 3}')
    ended = mlaas("workflow", *job)
    assert ended.code == 2
    assert "exists and is not a bundle" in ended.sentence
    assert names(other) == {"manifest.json"}


def test_resume_without_a_checkpoint_trains_from_the_start(job, tmp_path):
    done("workflow", *job, "--resume")
    is_whole(tmp_path / "place" / "ttH")
