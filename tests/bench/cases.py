"""What is measured: each case is a function of a file that returns how many events it took through."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import uproot

from mlaas import prepare as stage
from mlaas.data.dataset import Options, Part, PreparedDataset
from mlaas.data.reader import open_events
from mlaas.data.selected import Selected
from mlaas.data.specs import Specs
from mlaas.prepare import Prepared, prepare
from mlaas.workflow import parse

IDENTIFIER = ["runNo", "evtNo", "lumi"]
CUT = {"jagged_cut": {"jet_pt": {"cut": ["jet_pt > 40", "any"]}}}


@cache
def names(path: Path) -> list[str]:
    """All branches but the three identifiers: 22 flat, 52 jagged. Kept, so that no case pays for opening the file twice."""
    with open_events(str(path), tree="events") as file:
        return [name for name in file.branches if name not in IDENTIFIER]


def uproot_iterate(path: Path) -> int:
    """The baseline: uproot reads all branches into awkward arrays."""
    wanted = names(path)
    with uproot.open(path) as file:
        tree = file["events"]
        if tree.classname.startswith("ROOT::"):
            return sum(len(array) for array in tree.iterate(filter_name=wanted, step_size="100 MB"))
    return sum(len(array) for array in uproot.iterate(f"{path}:events", wanted, library="ak", step_size="100 MB"))


def specs(path: Path, direct: bool = True) -> int:
    """The first pass: ranges, longest lists and NaN counts of all branches."""
    found = Specs()
    with open_events(str(path), tree="events", direct=direct) as file:
        for columns in file.batches(names(path)):
            found.update(columns)
    return found.events


def prepared(paths: list[Path], cache: Path, *, cut: bool = False, workers: int = 1, handled: bool = True) -> Prepared:
    """The reading stage as `mlaas prepare` runs it."""
    params = {"branch": "events", "identifier": IDENTIFIER, "workers": workers, "handled": handled, "split": 0}
    labels = [index % 2 for index in range(len(paths))]
    document = {"files": [str(path) for path in paths], "labels": labels, "model": "model.py", "params": params}
    return prepare(parse({**document, "preproc": CUT if cut else {}}), cache=cache)


@dataclass(frozen=True)
class Chunks:
    """Whole chunk creation from a prepared job: read (or load handled data), cut, pad, normalise, mask, float32 matrix.

    direct: False reads the baskets with uproot. stored: True takes the events from handled data.
    """

    job: Prepared
    chunk_size: int = 100_000
    mask: bool = True
    direct: bool = True
    stored: bool = False

    def dataset(self) -> PreparedDataset:
        """The job's files as one class each, in chunks."""
        parts = [replace(part, batches=self._batches(number), label=number % 2) for number, part in enumerate(_parts(self.job))]
        return PreparedDataset(parts, self.job.features.layout, "classification", [0.0, 1.0], Options(self.chunk_size, fractions=(0.0, 0.0)))

    def _batches(self, number: int):
        file, summary = self.job.files[number], self.job.summaries[number]
        stored = self.job._batches(file, summary)

        def batches(columns: bool) -> Iterator[Selected]:
            return self._read(number) if columns and not self.stored else stored(columns)

        return batches

    def _read(self, number: int) -> Iterator[Selected]:
        file = self.job.files[number]
        with open_events(file.source.path, tree="events", direct=self.direct) as events:
            for selected, _ in stage._select(events, self.job.selection, file.used):
                yield selected

    def run(self, dataset: PreparedDataset) -> int:
        """Make every chunk once; returns the number of entries that were read for it."""
        rows = sum(len(chunk) for chunk in dataset.chunks("train", mask=self.mask))
        assert rows == self.job.events
        return sum(file.used for file in self.job.files)


def _parts(job: Prepared) -> list[Part]:
    return [
        Part(file.source.path, job._batches(file, summary), 0, 1.0, summary.events) for file, summary in zip(job.files, job.summaries, strict=True)
    ]


def matrix_bytes(job: Prepared, chunk_size: int) -> int:
    """The size of one chunk's float32 matrix."""
    return math.ceil(min(chunk_size, job.events)) * job.features.width * 4
