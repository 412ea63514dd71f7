"""A training that is killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.victim import victim

ROOT = Path(__file__).parents[2]
CASES = [("keras", "passes"), ("torch", "passes"), ("torch", "chunks"), ("sklearn", "passes"), ("xgboost", "passes"), ("xgboost", "chunks")]


@pytest.mark.parametrize(("framework", "procedure"), CASES)
def test_killed_and_resumed_equals_undisturbed(tmp_path, framework, procedure):
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.support.victim", framework, procedure, str(folder), "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    undisturbed = victim(framework, procedure, tmp_path / "undisturbed")
    assert 2 <= len(stream(folder)) < len(undisturbed["history"]), "killed in the middle"
    resumed = victim(framework, procedure, folder, resume=True)
    assert resumed["epochs"] == undisturbed["epochs"]
    assert resumed["trained"] == undisturbed["trained"]
    assert [row[:3] for row in resumed["history"]] == [row[:3] for row in undisturbed["history"]]
    np.testing.assert_allclose([row[3:] for row in resumed["history"]], [row[3:] for row in undisturbed["history"]], atol=1e-5)
    for split, loss in undisturbed["losses"].items():
        assert resumed["losses"][split] == pytest.approx(loss, abs=1e-5)
    assert resumed["sum"] == pytest.approx(undisturbed["sum"], rel=1e-5)
    assert stream(folder) == [tuple(row[:3]) for row in undisturbed["history"]], "no line is missing or there twice"


def stream(folder):
    """The records of a metrics stream, its intervals left out."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["kind"], record["epoch"], record["chunk"]) for record in records if record["kind"] != "interval"]
