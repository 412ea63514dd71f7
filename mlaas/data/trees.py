"""TTrees as event files: the direct basket reader where it can, uproot everywhere else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from uproot.behaviors.TBranch import TBranch
from uproot.deserialization import DeserializationError
from uproot.interpretation.grouped import AsGrouped
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype, Numerical
from uproot.interpretation.objects import AsObjects, AsStridedObjects
from uproot.interpretation.strings import AsStrings

from mlaas.data.access import root_identity
from mlaas.data.awkwards import to_column
from mlaas.data.baskets import BasketColumn, Buffer, ByteSource, Unusual
from mlaas.data.columns import Array, Column, Columns, Jagged
from mlaas.data.files import Branch
from mlaas.errors import DataError

BATCH_BYTES = 24 << 20
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AssertionError, ArithmeticError, struct.error, zlib.error, DeserializationError)

Offsets = npt.NDArray[np.int64]


def describe(branch: Any, name: str) -> Branch | str | None:
    """What a TBranch is to us: a usable branch, the reason why it is none, or None when its parts stand for it."""
    try:
        interpretation = branch.interpretation
    except Exception as error:
        return f"uproot cannot interpret it ({type(error).__name__})"
    if isinstance(interpretation, AsGrouped):
        return None
    if isinstance(interpretation, AsStrings):
        return "strings"
    if isinstance(interpretation, AsJagged):
        content = interpretation.content
        dtype = np.dtype(content.numpy_dtype) if isinstance(content, Numerical) else np.dtype(object)
        if dtype.names or dtype.subdtype:
            return "lists of structures or arrays"
        if dtype.kind not in "biuf":
            return f"lists of type {branch.typename}"
        counter = branch.count_branch
        return Branch(name, dtype.newbyteorder("="), "jagged", "" if counter is None else _full_name(counter))
    if isinstance(interpretation, AsStridedObjects):
        return f"objects of type {branch.typename}"
    if isinstance(interpretation, Numerical):
        return _numbers(np.dtype(interpretation.numpy_dtype), name)
    if isinstance(interpretation, AsObjects):
        return f"objects of type {branch.typename}"
    return f"type {branch.typename}"


def _full_name(branch: Any) -> str:
    """The branch's name with those of its parents: two collections may name their counters alike."""
    parent = branch.parent
    return f"{_full_name(parent)}/{branch.name}" if isinstance(parent, TBranch) else str(branch.name)


def _numbers(dtype: np.dtype[Any], name: str) -> Branch | str:
    if dtype.names:
        return "several leaves in one branch"
    if dtype.subdtype is None:
        return Branch(name, dtype.newbyteorder("="), "flat")
    base, shape = dtype.subdtype
    if base.names:
        return "arrays of structures"
    if len(shape) != 1:
        return f"arrays of {len(shape)} dimensions"
    if not shape[0]:
        return "arrays of length 0"
    return Branch(name, base.newbyteorder("="), "jagged", f"[{shape[0]}]")


class TreeFile:
    """A TTree as an `EventFile`. `direct` is false to read with uproot alone (for comparison)."""

    def __init__(self, path: str, tree: Any, *, workers: int = 1, direct: bool = True) -> None:
        self.path = path
        self._tree = tree
        self._workers = workers
        self._direct = direct
        self.branches: Mapping[str, Branch]
        self.excluded: Mapping[str, str]
        self.branches, self.excluded = self._describe()
        directory = tree.file
        self.identity = root_identity(path, directory.uuid, directory.fEND, tree.object_path)

    def _describe(self) -> tuple[dict[str, Branch], dict[str, str]]:
        branches: dict[str, Branch] = {}
        excluded: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        for name, branch in self._tree.iteritems(recursive=True, full_paths=True):
            found = describe(branch, name)
            if isinstance(found, str):
                excluded.setdefault(name, found)
            elif found is not None and name not in branches:
                branches[name] = found
                self._handles[name] = branch
        return branches, excluded

    @property
    def events(self) -> int:
        """Number of entries."""
        return int(self._tree.num_entries)

    def batches(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """Entries start..stop in order, some 24 MB at a time."""
        stop = self.events if stop is None else min(stop, self.events)
        if start >= stop or not names:
            return
        pass_ = _Pass(self, list(names), start)
        bounds = pass_.bounds(start, stop)
        source = ByteSource(self._tree.file.source, self.path)
        pool = ThreadPoolExecutor(self._workers) if self._workers > 1 else None
        try:
            yield from pass_.run(bounds, source, pool)
        finally:
            source.close()
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Close the file."""
        self._tree.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Pass:
    """One pass over entries of a tree: which columns are read how, and where each stands."""

    def __init__(self, file: TreeFile, names: list[str], start: int) -> None:
        self._file = file
        self._names = names
        self._handles = dict(file._handles)
        self._columns: dict[str, BasketColumn] = {}
        self._counters: dict[str, str] = {}  # branch -> its counter's key in _columns
        if file._direct:
            for name in names:
                self._plan(name)
            self._seek(start)

    def _plan(self, name: str) -> None:
        """Choose the direct reader for a branch where its kind is known."""
        branch = self._handles[name]
        interpretation = branch.interpretation
        about = self._file.branches[name]
        try:
            if type(interpretation) is AsDtype:
                size = 1 if about.kind == "flat" else int(about.counter.strip("[]"))
                self._columns[name] = BasketColumn(branch, about.dtype, size, -1, _stored(interpretation))
            elif isinstance(interpretation, AsJagged) and type(interpretation.content) is AsDtype:
                if interpretation.header_bytes == 0 and branch.count_branch is not None:
                    self._counted(name, branch, about.dtype)
                elif interpretation.header_bytes == 10:
                    self._columns[name] = BasketColumn(branch, about.dtype, 0, 10, _stored(interpretation.content))
        except Unusual:
            self._columns.pop(name, None)

    def _counted(self, name: str, branch: Any, dtype: np.dtype[Any]) -> None:
        counter = branch.count_branch
        interpretation = counter.interpretation
        if type(interpretation) is not AsDtype or interpretation.numpy_dtype.kind not in "iu":
            raise Unusual("counter is not a whole number")
        key = next((known for known, handle in self._handles.items() if handle is counter), f"\0{_full_name(counter)}")
        column = BasketColumn(branch, dtype, 0, -1, _stored(branch.interpretation.content))
        if key not in self._columns:
            self._columns[key] = BasketColumn(counter, np.dtype(interpretation.numpy_dtype), 1, -1, _stored(interpretation))
            self._handles.setdefault(key, counter)
        self._columns[name] = column
        self._counters[name] = key

    def _seek(self, start: int) -> None:
        skips: dict[tuple[str, int], int] = {}
        for name, column in self._columns.items():
            skip = 0
            if name in self._counters and (first := column.before(start)) < start:
                key = (self._counters[name], first)
                if key not in skips:
                    skips[key] = int(_lengths(self._handles[key[0]].array(entry_start=first, entry_stop=start, library="np")).sum())
                skip = skips[key]
            column.seek(start, skip)

    def bounds(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Batches of about BATCH_BYTES that end where baskets end, if the branches' baskets have common ends."""
        size = sum(int(self._handles[name].uncompressed_bytes) for name in self._names) / max(1, self._file.events)
        step = max(1, int(BATCH_BYTES / max(size, 1e-9)))
        edges = self._common_ends()
        out = []
        while start < stop:
            ahead = edges[(edges > start) & (edges <= start + step)]
            end = min(stop, int(ahead[-1]) if len(ahead) else start + step)
            out.append((start, end))
            start = end
        return out

    def _common_ends(self) -> Offsets:
        """The entries at which a basket of every branch ends."""
        common: Offsets | None = None
        for name in [*self._names, *(key for key in self._columns if key not in self._names)]:
            try:
                ends = np.asarray(self._handles[name].entry_offsets, np.int64)
            except ValueError:  # baskets that do not add up: uproot reads this branch, or says why it cannot
                continue
            common = np.unique(ends) if common is None else np.intersect1d(common, ends)
        return np.empty(0, np.int64) if common is None else common

    def run(self, bounds: list[tuple[int, int]], source: ByteSource, pool: ThreadPoolExecutor | None) -> Iterator[Columns]:
        """Read batch after batch; for remote files the next batch's bytes travel while this one is decoded."""
        ahead = ThreadPoolExecutor(1) if not source.local else None
        try:
            coming = self._request(bounds[0][1], source, ahead)
            for number, (start, stop) in enumerate(bounds):
                raws = coming()
                cursors = {name: column._next + len(raws[name]) for name, column in self._columns.items()}
                if number + 1 < len(bounds):
                    coming = self._request(bounds[number + 1][1], source, ahead, cursors)
                yield self._batch(start, stop, raws, pool)
        finally:
            if ahead is not None:
                ahead.shutdown(cancel_futures=True)

    def _request(self, stop: int, source: ByteSource, ahead: ThreadPoolExecutor | None, cursors: Mapping[str, int] | None = None) -> Any:
        """Ask for the bytes of all baskets up to entry `stop` that were not asked for; returns a function that waits for them."""
        wanted = {}
        for name, column in self._columns.items():
            done = cursors[name] - column._next if cursors else 0
            wanted[name] = column.wanted(stop)[done:]
        flat = [item for ranges in wanted.values() for item in ranges]

        def fetch() -> dict[str, list[Buffer]]:
            got = iter(source.fetch(flat))
            return {name: [next(got) for _ in ranges] for name, ranges in wanted.items()}

        if ahead is None:
            return fetch
        future: Future[dict[str, list[Buffer]]] = ahead.submit(fetch)
        return future.result

    def _batch(self, start: int, stop: int, raws: Mapping[str, list[Buffer]], pool: ThreadPoolExecutor | None) -> Columns:
        events = stop - start
        counts: dict[str, Array] = {}
        offsets: dict[str, Offsets] = {}
        for key in dict.fromkeys(self._counters.values()):
            self._count(key, start, stop, raws, counts, offsets)
        rest = [name for name in self._names if name not in counts]
        out: dict[str, Column] = dict(counts)

        def read(name: str) -> Column:
            return self._column(name, start, stop, raws, offsets, out)

        columns = (pool.map if pool else map)(read, rest)
        out.update(zip(rest, columns, strict=True))
        return Columns(events, _share({name: out[name] for name in self._names}))

    def _count(
        self, key: str, start: int, stop: int, raws: Mapping[str, list[Buffer]], counts: dict[str, Array], offsets: dict[str, Offsets]
    ) -> None:
        """Read a counter branch and the offsets that follow from it."""
        column = self._columns.get(key)
        try:
            if column is None:
                raise Unusual("given up before")
            values = column.values(stop, raws[key], stop - start)
        except Unusual:
            self._columns.pop(key, None)
            found = self._uproot(key, start, stop)
            values = found.flat if isinstance(found, Jagged) else found
        counts[key] = values
        starts = np.zeros(stop - start + 1, np.int64)
        np.cumsum(_lengths(values), out=starts[1:])
        offsets[key] = starts

    def _column(
        self, name: str, start: int, stop: int, raws: Mapping[str, list[Buffer]], offsets: Mapping[str, Offsets], out: Mapping[str, Column]
    ) -> Column:
        column = self._columns.get(name)
        try:
            if column is None:
                raise Unusual("not planned, or given up before")
            if name in self._counters:
                starts = offsets[self._counters[name]]
                return Jagged(column.values(stop, raws[name], int(starts[-1])), starts)
            if column.per_entry:
                values = column.values(stop, raws[name], (stop - start) * column.per_entry)
                if self._file.branches[name].kind == "flat":
                    return values
                return Jagged(values, np.arange(0, len(values) + 1, column.per_entry, dtype=np.int64))
            content, lengths = column.lists(stop, raws[name], stop - start)
            starts = np.zeros(len(lengths) + 1, np.int64)
            np.cumsum(lengths, out=starts[1:])
            return Jagged(content, starts)
        except Unusual:
            self._columns.pop(name, None)
            found = self._uproot(name, start, stop)
            if name in self._counters and isinstance(found, Jagged):
                self._agree(name, found, offsets[self._counters[name]], start)
            return found

    def _agree(self, name: str, found: Jagged, counted: Offsets, start: int) -> None:
        """Lists and their counter must tell the same lengths; where they do not, nobody knows which of the two is damaged."""
        wrong = np.flatnonzero(found.counts != np.diff(counted))
        if len(wrong):
            counter, entry = self._counters[name].strip("\0"), start + int(wrong[0])
            raise DataError(
                f"{self._file.path} is damaged: branch {name!r} holds {found.counts[wrong[0]]} values in entry {entry},"
                f" but its counter {counter!r} says {np.diff(counted)[wrong[0]]}; fetch or write it again, or leave out the branch"
            )

    def _uproot(self, name: str, start: int, stop: int) -> Column:
        try:
            return to_column(self._handles[name].array(entry_start=start, entry_stop=stop, library="ak"))
        except _DAMAGE as error:
            why = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"[:160]
            raise DataError(
                f"{self._file.path} is damaged, or branch {name!r} is of a kind that cannot be read (entries {start} to {stop}: {why});"
                " fetch or write the file again, or leave out the branch"
            ) from error


def _lengths(counts: Array) -> Array:
    """The lengths that a counter's values mean: a negative one, which only damage can make, counts nothing."""
    return np.maximum(counts, 0) if counts.dtype.kind == "i" else counts


def _stored(interpretation: Any) -> np.dtype[Any]:
    """The type of the values in the file."""
    stored: np.dtype[Any] = np.dtype(interpretation.from_dtype).base
    return stored


def _share(columns: dict[str, Column]) -> dict[str, Column]:
    """Make equal offsets the same object (std::vector branches of one collection)."""
    seen: dict[int, list[Offsets]] = {}
    known: set[int] = set()
    for name, column in columns.items():
        if not isinstance(column, Jagged) or id(column.offsets) in known:
            continue
        candidates = seen.setdefault(int(column.offsets[-1]), [])
        same = next((offsets for offsets in candidates if np.array_equal(offsets, column.offsets)), None)
        if same is None:
            candidates.append(column.offsets)
            known.add(id(column.offsets))
        else:
            columns[name] = Jagged(column.content, same)
    return columns
