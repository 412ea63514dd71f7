"""`mlaas replay`: a training repeated from what its bundle records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlaas import pipeline
from mlaas.models.bundle import read_bundle
from tests.integration.jobs import done, listing, mlaas, toys, write_job, write_root

PARAMS = {"shuffle": True, "selected_branches": "branches.txt", "epochs": 8, "batch_size": 50, "split": [0.1, 0.5]}
CUT = {"flat_cut": {"met": {"cut": "met>10", "remove": "False"}}}


@pytest.fixture
def job(tmp_path, monkeypatch) -> Path:
    """A finished job with relative paths and a list of branches in a file; the current folder is another one then."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / "branches.txt").write_text("# the good ones\nmva\nmet\nparton*\n")
    for label, name in ((1, "ttH"), (0, "tt")):
        write_root(home / f"{name}.root", toys(600, label))
    flags = write_job(home, ["ttH.root", "tt.root"], [1, 0], "mlp", PARAMS, CUT)
    done("workflow", *flags, "--fout=ttH")
    monkeypatch.chdir(tmp_path)
    return home


def figures(bundle: Path) -> dict:
    return json.loads((bundle / "metrics.json").read_text())["metrics"]


def test_it_gives_the_same_metrics(job, tmp_path):
    ended = done("replay", job / "ttH", "--trust", f"--fout={tmp_path / 'again'}")
    assert figures(tmp_path / "again") == figures(job / "ttH")
    assert "the two trainings agree" in ended.out
    assert "changed since then" not in ended.out
    assert f"bundle   {tmp_path / 'again'}" in ended.out
    then, now = (read_bundle(path).manifest for path in (job / "ttH", tmp_path / "again"))
    assert then.provenance["data"] == now.provenance["data"]
    assert read_bundle(job / "ttH").text("model.py") == read_bundle(tmp_path / "again").text("model.py")


def test_a_replayed_bundle_can_be_replayed(job, tmp_path):
    done("replay", job / "ttH", "--trust")
    assert "agree" in done("replay", job / "ttH-replay", "--trust", f"--fout={tmp_path / 'third'}").out
    assert figures(tmp_path / "third") == figures(job / "ttH")


def test_what_the_bundle_records_is_enough(job, tmp_path):
    """Neither the job's text files nor its folder as the current one are needed; only the data."""
    for name in ("files.txt", "labels.txt", "model.py", "params.json", "preproc.json", "branches.txt"):
        (job / name).unlink()
    assert "agree" in done("replay", job / "ttH", "--trust", f"--fout={tmp_path / 'again'}").out
    document = read_bundle(job / "ttH").json("workflow.json")
    assert document["files"] == [str(job / "ttH.root"), str(job / "tt.root")]
    assert document["model"] == "model.py"
    assert document["params"]["selected_branches"] == ["mva", "met", "parton*"]


def test_it_needs_trust(job, tmp_path):
    before = listing(tmp_path)
    ended = mlaas("replay", job / "ttH", f"--fout={tmp_path / 'again'}")
    assert (ended.code, ended.out) == (2, "")
    assert "--trust" in ended.sentence
    assert listing(tmp_path) == before


def test_it_says_which_files_have_changed(job, tmp_path):
    write_root(job / "tt.root", toys(900, 0, seed=8))
    ended = done("replay", job / "ttH", "--trust", f"--fout={tmp_path / 'again'}")
    assert ended.out.count("changed since then") == 1
    assert f"changed since then: {job / 'tt.root'}" in ended.out


def test_other_data_give_another_verdict(job, tmp_path):
    write_root(job / "ttH.root", toys(600, 0, seed=3))  # no signal any more
    result = pipeline.replay(job / "ttH", out=tmp_path / "again", trust=True)
    assert not result.agrees
    assert result.changed == [str(job / "ttH.root")]
    assert "DIFFER" in result.summary()


def test_a_missing_file(job, tmp_path, monkeypatch):
    monkeypatch.setenv("MLAAS_CACHE", str(tmp_path / "other"))
    (job / "tt.root").unlink()
    ended = mlaas("replay", job / "ttH", "--trust", f"--fout={tmp_path / 'again'}")
    assert ended.code == 2
    assert "there is no file" in ended.sentence
    assert not (tmp_path / "again").exists()


def test_a_damaged_bundle(job, tmp_path):
    shutil.copytree(job / "ttH", tmp_path / "hurt")
    (tmp_path / "hurt" / "model.py").write_text("import os\n")
    ended = mlaas("replay", tmp_path / "hurt", "--trust")
    assert ended.code == 2
    assert "model.py has changed" in ended.sentence


def test_it_does_not_replace_the_bundle_it_is_compared_with(job):
    before = listing(job / "ttH")
    ended = mlaas("replay", job / "ttH", "--trust", f"--fout={job / 'ttH'}")
    assert ended.code == 2
    assert ended.sentence.startswith("replaying into")
    assert listing(job / "ttH") == before
