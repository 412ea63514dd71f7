"""`make demo` on fewer events: it is the published calls, and both protocols of predictions, against the real service."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest

from tests.support.serve import clean


def demo(tmp_path, *flags):
    command = [sys.executable, "-m", "mlaas.demo.run", "demo", "--events=3000", "--once", *flags]
    return subprocess.run(command, cwd=tmp_path, env=clean(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@pytest.mark.needs("curl")
def test_the_demo(tmp_path):
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "Successfully uploaded!" in done.stdout
    assert '"process_name": "ttH_1"' in done.stdout
    assert "the three ways give the same scores" in done.stdout
    summary = done.stdout[done.stdout.index("# Done after") :]
    for line in ("AUC", "training", "bundle", "report", "web page", "commands"):
        assert f"\n  {line} " in summary
    assert (tmp_path / "demo" / "ttH_1" / "report" / "index.html").is_file()
    token = (tmp_path / "demo" / "data" / "secrets" / "token").read_text().strip()
    assert token not in done.stdout + done.stderr
    assert (tmp_path / "demo" / "token.header").stat().st_mode & 0o077 == 0
    with pytest.raises(httpx.ConnectError):  # it has stopped
        httpx.get(re.search(r"web page +(\S+)", summary)[1], trust_env=False)


def test_it_empties_no_folder_but_its_own(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").touch()
    done = demo(tmp_path)
    assert done.returncode == 1
    assert "is not the folder of a former demo" in done.stderr
    assert (tmp_path / "demo" / "thesis.tex").exists()
