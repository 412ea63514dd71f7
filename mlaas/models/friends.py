"""Scores of whole files: a ROOT friend tree aligned by entry, or a Parquet file with one row per entry."""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mlaas.console import SILENT, Progress
from mlaas.data.choose import agree_with
from mlaas.data.columns import Columns
from mlaas.data.features import Features
from mlaas.data.files import EventFile
from mlaas.data.reader import open_events
from mlaas.data.sources import explain
from mlaas.errors import DataError, MLaaSError, ResourceError
from mlaas.models.predict import Predictor

TREE = "scores"
Format = Literal["root", "parquet"]
Rows = Mapping[str, npt.NDArray[Any]]


def write_scores(
    predictor: Predictor, path: str, target: Path, *, format: Format = "root", tree: str | None = None, dtype: str | None = None,
    progress: Progress = SILENT,
) -> Path:  # fmt: skip
    """Score every entry of a file of events and write the scores to `target`; returns it.

    The output has exactly one row per entry, in the same order, so that a ROOT file is a friend of the input:
    `events->AddFriend("scores", "target.root")`. Columns: `score` (two classes, or regression) or `score_<class>` each, float32; and `selected`,
    whether the entry passes the cuts of the training, when there are any and the file has the branches they need.
    tree: another tree than that of the training. Raises DataError (the file, or branches it lacks) or ResourceError; nothing is left half-written.
    """
    features = predictor.features
    with open_events(path, tree=tree or features.tree, dtype=dtype) as file:
        agree_with(file, features.branches)
        selected = _can_select(features, file)
        names = list(features.branches) if not selected else list(dict.fromkeys([*features.branches, *features.sources]))
        with progress.stage(f"predict {Path(path).name}", file.events) as stage, _aside(target) as aside, _writer(aside, format) as writer:
            rows = 0
            for columns in _read(file, names):
                writer.write(_scores(predictor, columns, selected))
                rows += columns.n
                stage.advance(columns.n)
            if not rows:
                writer.write(_scores(predictor, _nothing(features, names), selected))
    return target


def _read(file: EventFile, names: list[str]) -> Iterator[Columns]:
    rows = 0
    try:
        for columns in file.batches(names):
            rows += columns.n
            yield columns
    except (MLaaSError, GeneratorExit):
        raise
    except Exception as error:
        raise explain(file.path, error) from error
    if rows != file.events:
        raise DataError(f"{file.path} ends after {rows:,} of {file.events:,} entries; it is truncated")


def _scores(predictor: Predictor, columns: Columns, selected: bool) -> Rows:
    scores = predictor.predict(columns)
    out: dict[str, npt.NDArray[Any]] = {}
    if scores.ndim == 1:
        out["score"] = scores
    else:
        labels = column_names(predictor.bundle.manifest.classes)
        out.update({label: np.ascontiguousarray(scores[:, index]) for index, label in enumerate(labels)})
    if selected:
        out["selected"] = predictor.features.selects(columns)
    return out


def column_names(classes: list[str]) -> list[str]:
    """One column name per class: letters, digits and underscores only, each name once."""
    names: list[str] = []
    for label in classes:
        name = "score_" + re.sub(r"\W", "_", label)
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names


def _can_select(features: Features, file: EventFile) -> bool:
    return features.has_cuts and all(name in file.branches for name in features.sources)


def _nothing(features: Features, names: list[str]) -> Columns:
    from mlaas.data.columns import Jagged

    empty = np.zeros(1, np.int64)
    columns = {}
    for name in names:
        branch = features.sources[name]
        values = np.empty(0, branch.dtype)
        columns[name] = Jagged(values, empty) if branch.kind == "jagged" else values
    return Columns(0, columns)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A path to write to, renamed to the target at the end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            aside = Path(folder) / target.name
            yield aside
            aside.replace(target)
    except OSError as error:
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise ResourceError(f"the scores cannot be written to {target}: {what}") from error


class _Writer(Protocol):
    def write(self, rows: Rows) -> None: ...


class _Root:
    def __init__(self, path: Path) -> None:
        import uproot

        self.file = uproot.recreate(path)
        self._tree: Any = None

    def write(self, rows: Rows) -> None:
        if self._tree is None:
            self._tree = self.file.mktree(TREE, {name: values.dtype for name, values in rows.items()}, title="scores per entry")
        if len(next(iter(rows.values()))):
            self._tree.extend(dict(rows))


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.file: Any = None

    def write(self, rows: Rows) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(dict(rows))
        if self.file is None:
            self.file = pq.ParquetWriter(str(self._path), table.schema)
        self.file.write_table(table)


@contextmanager
def _writer(path: Path, format: Format) -> Iterator[_Writer]:
    writer = _Root(path) if format == "root" else _Parquet(path)
    try:
        yield writer
    finally:
        if writer.file is not None:
            writer.file.close()
