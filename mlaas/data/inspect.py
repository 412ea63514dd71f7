"""What a file holds, for a person: branches, types, ranges, longest lists, events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlaas.console import SILENT, Progress
from mlaas.data.files import Branch, EventFile
from mlaas.data.reader import open_events, trees
from mlaas.data.sources import detect, explain, resolve
from mlaas.data.specs import Specs
from mlaas.errors import MLaaSError


@dataclass(frozen=True)
class Inspection:
    """One file (and one tree of it) as inspected; `specs` is None when no ranges were asked for."""

    path: str
    format: str
    tree: str
    events: int
    branches: tuple[Branch, ...]
    excluded: dict[str, str]
    specs: Specs | None

    def document(self) -> dict[str, Any]:
        """Everything as plain values; range, longest list and NaN count are null where unknown."""
        return {
            "path": self.path,
            "format": self.format,
            "tree": self.tree,
            "events": self.events,
            "branches": [self._branch(branch) for branch in self.branches],
            "excluded": dict(self.excluded),
        }

    def _branch(self, branch: Branch) -> dict[str, Any]:
        found = self.specs.branches.get(branch.name) if self.specs else None
        known = found is not None and not found.empty
        return {
            "name": branch.name,
            "type": str(branch.dtype),
            "kind": branch.kind,
            "counter": branch.counter,
            "longest": found.longest if found else None,
            "min": found.low if known and found else None,
            "max": found.high if known and found else None,
            "nan": found.nans if found else None,
            "infinite": found.infinities if found else None,
        }


def inspect_file(
    path: str, *, tree: str | None = None, dtype: str | None = None, ranges: bool = True, redirector: str = "", progress: Progress = SILENT
) -> list[Inspection]:
    """Inspect a file: the given tree, or every tree in it. Raises DataError when it cannot be read."""
    where = resolve([path], redirector=redirector)[0] if redirector else resolve([path])[0]
    format = detect(where, dtype)
    chosen: list[str | None] = [tree]
    if tree is None and format == "root":
        chosen = [*trees(where)] or [None]
    return [_one(where, format, name, dtype, ranges, progress) for name in chosen]


def _one(path: str, format: str, tree: str | None, dtype: str | None, ranges: bool, progress: Progress) -> Inspection:
    with open_events(path, tree=tree, dtype=dtype) as file:
        specs = _ranges(file, progress) if ranges else None
        return Inspection(path, format, tree or "", file.events, tuple(file.branches.values()), dict(file.excluded), specs)


def _ranges(file: EventFile, progress: Progress) -> Specs:
    specs = Specs()
    with progress.stage("read ranges", file.events) as stage:
        try:
            for columns in file.batches(list(file.branches)):
                specs.update(columns)
                stage.advance(columns.n)
        except MLaaSError:
            raise
        except Exception as error:
            raise explain(file.path, error) from error
    return specs
