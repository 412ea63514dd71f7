"""Handled data: the selected events of one file in a standard columnar format (Arrow IPC), on storage that both stages share.

A folder per file and selection, named by the digest of what it depends on (the file's identity, the tree, the branches, preproc, weight, label
and entry range): an equal key means equal content, so a second job does not read the ROOT file again. Jagged columns are stored as
content and offsets, a quarter of the size of the padded matrix. A folder appears whole or not at all.

    <cache>/handled/<key>/events.arrow    entry, label, weight, then the feature columns (lists as Arrow lists)
    <cache>/handled/<key>/handled.json    counts, specs, label values, and which columns share their list lengths
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlaas.data.columns import Array, Column, Columns, Jagged, concatenate
from mlaas.data.selected import Selected
from mlaas.data.specs import Specs
from mlaas.errors import DataError, ResourceError

FORMAT = 2
STALE_SECONDS = 2 * 86_400  # after this time without a change, a folder that was never published belongs to a writer that died
BATCH_EVENTS = 8192
BATCH_BYTES = 16 << 20
MANY_LABELS = 1000

_META = ("entry", "label", "weight")


def digest(document: Mapping[str, Any]) -> str:
    """The key of what a document describes: 32 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Summary:
    """What `handled.json` says.

    entries: entries read. events: entries selected. label_values: the distinct labels in ascending order, None when the file has one label or more
    than MANY_LABELS distinct ones. whole_labels: whether all labels are whole numbers. weights: (sum, sum of absolute values, smallest).
    groups: lists of columns whose list lengths are equal in all events. columns: False when only entry, label and weight are stored.
    """

    key: str
    entries: int
    events: int
    specs: Specs
    label_values: list[float] | None
    whole_labels: bool
    weights: tuple[float, float, float]
    groups: list[list[str]]
    columns: bool
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"format": FORMAT, **self.__dict__, "specs": self.specs.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Summary:
        """The inverse of `to_json`."""
        rest = {key: value for key, value in document.items() if key not in {"format", "specs", "weights"}}
        low, high, least = document["weights"]
        return cls(specs=Specs.from_json(document["specs"]), weights=(low, high, least), **rest)


class Writer:
    """Writes the handled data of one file aside; `publish` makes it appear under its key.

    batch_events: the most events in a record batch; 0 takes batches as they come. Training holds one batch of every file in memory.
    """

    def __init__(self, root: Path, key: str, *, columns: bool = True, batch_events: int = 0) -> None:
        self._target = root / key
        self._key = key
        self._columns = columns
        self._batch_events = batch_events
        try:
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root))
        except OSError as error:
            raise _storage(error, root) from error
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._sink: pa.OSFile | None = None  # ours to close: otherwise a failed file would hold its disk space as long as the error lives
        self._waiting: list[Selected] = []
        self._specs = Specs()
        self._groups: list[list[str]] | None = None
        self._entries = 0
        self._labels: set[float] | None = None
        self._many = False
        self._whole = True
        self._weights = [0.0, 0.0, np.inf]

    def write(self, selected: Selected, entries: int) -> None:
        """Add the events selected from `entries` further entries."""
        self._entries += entries
        if not len(selected):
            return
        self._specs.update(selected.columns)
        self._observe(selected)
        self._waiting.append(selected)
        events = sum(len(part) for part in self._waiting)
        if events >= BATCH_EVENTS or sum(part.columns.nbytes for part in self._waiting) >= BATCH_BYTES:
            self._flush()

    def _observe(self, selected: Selected) -> None:
        if selected.label is not None:
            values = np.unique(selected.label)
            self._whole = self._whole and bool(np.all(values == np.floor(values)))
            self._labels = (self._labels or set()) | set(values[: MANY_LABELS + 1].tolist())
            if len(self._labels) > MANY_LABELS:
                self._many = True
                self._labels = set(list(self._labels)[:1])
        weight = np.ones(len(selected)) if selected.weight is None else selected.weight
        self._weights = [
            self._weights[0] + float(weight.sum()),
            self._weights[1] + float(np.abs(weight).sum()),
            min(self._weights[2], float(weight.min())),
        ]

    def _flush(self) -> None:
        if not self._waiting:
            return
        parts, self._waiting = self._waiting, []
        columns = concatenate([part.columns for part in parts])
        self._groups = _refine(self._groups, columns)
        arrays: dict[str, Any] = {"entry": np.concatenate([part.entry for part in parts])}
        if parts[0].label is not None:
            arrays["label"] = np.concatenate([part.label for part in parts if part.label is not None])
        if parts[0].weight is not None:
            arrays["weight"] = np.concatenate([part.weight for part in parts if part.weight is not None])
        if self._columns:
            arrays.update({f":{name}": _to_arrow(column) for name, column in columns.data.items()})
        batch = pa.record_batch({name: pa.array(values) if isinstance(values, np.ndarray) else values for name, values in arrays.items()})
        try:
            if self._writer is None:
                self._sink = pa.OSFile(str(self._folder / "events.arrow"), "wb")
                self._writer = pa.ipc.new_file(self._sink, batch.schema)
            size = self._batch_events or batch.num_rows
            for first in range(0, batch.num_rows, size):
                self._writer.write_batch(batch.slice(first, size))
        except OSError as error:
            raise _storage(error, self._folder) from error

    def publish(self) -> Summary:
        """Finish the files and give them their name; if somebody else was faster, theirs is taken."""
        self._flush()
        try:
            if self._writer is not None and self._sink is not None:
                self._writer.close()
                self._sink.close()
                _sync(self._folder / "events.arrow")
            size = sum(path.stat().st_size for path in self._folder.iterdir())
            labels = None if self._labels is None or self._many else sorted(self._labels)
            summary = Summary(
                self._key, self._entries, self._specs.events, self._specs, labels, self._whole,
                (self._weights[0], self._weights[1], self._weights[2] if np.isfinite(self._weights[2]) else 0.0),
                self._groups or [], self._columns, size,
            )  # fmt: skip
            with (self._folder / "handled.json").open("w") as file:
                json.dump(summary.to_json(), file)
                file.flush()
                os.fsync(file.fileno())
            self._folder.chmod(0o755)
            _sync(self._folder)
            self._rename()
            _sync(self._target.parent)
        except OSError as error:
            raise _storage(error, self._folder) from error
        return summary

    def _rename(self) -> None:
        for last in (False, False, True):
            try:
                self._folder.rename(self._target)
            except OSError as error:
                if last or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            else:
                return
            if read_summary(self._target.parent, self._key) is not None:
                return
            shutil.rmtree(self._target, ignore_errors=True)  # what is there is damaged

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave nothing half-written behind."""
        for stream in (self._writer, self._sink):
            if stream is not None and kind is not None:
                with contextlib.suppress(OSError, pa.ArrowException):
                    stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def read_summary(root: Path, key: str) -> Summary | None:
    """What is stored under a key, or None when nothing usable is."""
    try:
        document = json.loads((root / key / "handled.json").read_text())
        summary = Summary.from_json(document)
        whole = summary.events == 0 or (root / key / "events.arrow").stat().st_size == summary.bytes
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return summary if document.get("format") == FORMAT and summary.key == key and whole else None


def read_batches(root: Path, summary: Summary, *, columns: bool = True) -> Iterator[Selected]:
    """The stored events in order; with `columns` false only entry, label and weight are decoded."""
    path = root / summary.key / "events.arrow"
    if summary.events == 0:
        return
    try:
        with pa.OSFile(str(path)) as file:
            names = pa.ipc.open_file(file).schema.names
            meta = [index for index, name in enumerate(names) if name in _META]
            options = pa.ipc.IpcReadOptions(included_fields=None if columns else meta)
            reader = pa.ipc.open_file(file, options=options)
            for number in range(reader.num_record_batches):
                yield _to_selected(reader.get_batch(number), summary, columns)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"the handled data {path} cannot be read ({why}); delete that folder and run again") from error


def _to_selected(batch: Any, summary: Summary, columns: bool) -> Selected:
    names = batch.schema.names
    arrays = {name: batch.column(index) for index, name in enumerate(names)}
    entry = np.asarray(arrays["entry"])
    label = np.asarray(arrays["label"]) if "label" in arrays else None
    weight = np.asarray(arrays["weight"]) if "weight" in arrays else None
    data: dict[str, Column] = {}
    if columns:
        first = {name: group[0] for group in summary.groups for name in group}
        shared: dict[str, npt.NDArray[np.int64]] = {}
        for name, array in arrays.items():
            if name.startswith(":"):
                data[name[1:]] = _from_arrow(array, shared, first.get(name[1:], name[1:]))
    return Selected(Columns(len(entry), data), entry, label, weight)


def _storable(values: Array) -> Array:
    """Booleans as bytes (Arrow packs them into bits), half floats as float32."""
    if values.dtype == np.bool_:
        return values.view(np.uint8)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _to_arrow(column: Column) -> Any:
    if not isinstance(column, Jagged):
        return pa.array(_storable(column))
    offsets = column.offsets - column.offsets[0]
    values = pa.array(_storable(column.flat))
    if offsets[-1] < 2**31:
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def _from_arrow(array: Any, shared: dict[str, npt.NDArray[np.int64]], group: str) -> Column:
    if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        return np.asarray(array)
    values = np.asarray(array.values)
    if group not in shared:
        offsets = np.asarray(array.offsets).astype(np.int64)
        if len(offsets) and (offsets[0] < 0 or np.any(offsets[1:] < offsets[:-1])):
            raise ValueError("lengths of lists are damaged")
        shared[group] = offsets
    if shared[group][-1] > len(values):
        raise ValueError("lists are longer than their values")
    return Jagged(values, shared[group])


def _refine(groups: list[list[str]] | None, columns: Columns) -> list[list[str]]:
    """Columns that shared their offsets in all batches so far, and share them in this one."""
    now = {name: id(column.offsets) for name, column in columns.data.items() if isinstance(column, Jagged)}
    out: dict[tuple[int, int], list[str]] = {}
    before = {name: number for number, group in enumerate(groups) for name in group} if groups is not None else {}
    for name, key in now.items():
        out.setdefault((before.get(name, 0), key), []).append(name)
    return list(out.values())


def _sync(path: Path) -> None:
    """Put a file or a folder's names on the disk, so that a power cut leaves all or nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(root: Path) -> None:
    """Remove what writers that died left behind, long after."""
    oldest = time.time() - STALE_SECONDS
    for folder in root.glob(".*"):
        with contextlib.suppress(OSError):
            if max(path.stat().st_mtime for path in (folder, *folder.iterdir())) < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _storage(error: OSError, where: Path) -> ResourceError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceError(f"the disk is full while writing handled data to {where}; free space, or set MLAAS_CACHE to a folder with more")
    return ResourceError(f"handled data cannot be written to {where}: {error.strerror or error}; set MLAAS_CACHE to a folder that can be written")
