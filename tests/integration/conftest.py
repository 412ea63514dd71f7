"""Data and a training that several integration tests share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration import jobs


@dataclass(frozen=True)
class Trained:
    """A finished `mlaas workflow`: its flags, its bundle, and what it said."""

    flags: list[str]
    bundle: Path
    done: jobs.Done


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ttH.root and tt.root: 1,500 and 2,500 toy events in a tree within a directory."""
    folder = tmp_path_factory.mktemp("samples")
    for name, events, label in (("ttH", 1500, 1), ("tt", 2500, 0)):
        branches = jobs.toys(events, label)
        del branches["kind"]  # it would give the label away
        jobs.write_root(folder / f"{name}.root", branches)
    return folder


@pytest.fixture(scope="session")
def published(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The published example, run by the published flags."""
    folder = tmp_path_factory.mktemp("published")
    flags = jobs.write_job(folder, [samples / "ttH.root", samples / "tt.root"], [1, 0], jobs.SLIDES_MODEL, jobs.SLIDES_PARAMS, jobs.PUBLISHED_PREPROC)
    with pytest.warns(FutureWarning, match="lr is called learning_rate"):
        ended = jobs.mlaas("workflow", *flags, f"--fout={folder / 'ttH'}")
    return Trained(flags, folder / "ttH", ended)
