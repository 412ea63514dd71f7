"""RNTuples as event files, read with uproot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import awkward as ak
import numpy as np
import numpy.typing as npt

from mlaas.data.access import root_identity
from mlaas.data.awkwards import to_column
from mlaas.data.columns import Column, Columns
from mlaas.data.files import Branch, Kind

BATCH_BYTES = 24 << 20


class NtupleFile:
    """An RNTuple as an `EventFile`; fields of collections are named "collection.field"."""

    def __init__(self, path: str, ntuple: Any) -> None:
        self.path = path
        self._ntuple = ntuple
        self._usable: dict[str, Branch] = {}
        self._others: dict[str, str] = {}
        form = ntuple.to_akform()
        form = form[0] if isinstance(form, tuple) else form
        for name, content in zip(form.fields, form.contents, strict=True):
            self._describe(name, content, None)
        self.branches: Mapping[str, Branch] = self._usable
        self.excluded: Mapping[str, str] = self._others
        self.identity = root_identity(path, ntuple.file.uuid, ntuple.file.fEND, getattr(ntuple, "name", ""))

    def _describe(self, name: str, form: Any, collection: str | None) -> None:
        """Sort one field, or the fields of a record, into usable and excluded ones."""
        if isinstance(form, ak.forms.RecordForm):
            for field, content in zip(form.fields, form.contents, strict=True):
                self._describe(f"{name}.{field}", content, collection)
        elif _plain(form):
            kind: Kind = "flat" if collection is None else "jagged"
            self._usable[name] = Branch(name, np.dtype(form.primitive), kind, collection or "")
        elif isinstance(form, ak.forms.ListOffsetForm) and collection is None and form.parameter("__array__") is None:
            self._describe(name, form.content, name)
        elif isinstance(form, ak.forms.RegularForm) and collection is None and _plain(form.content) and form.size:
            self._usable[name] = Branch(name, np.dtype(form.content.primitive), "jagged", f"[{form.size}]")
        else:
            self._others[name] = _reason(form, collection)

    @property
    def events(self) -> int:
        """Number of entries."""
        return int(self._ntuple.num_entries)

    def batches(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """Entries start..stop in order, some 24 MB at a time: whole clusters, or parts of one that is larger.

        uproot decompresses whole clusters whatever part of them is asked for, so a large one is read once and then cut.
        """
        stop = self.events if stop is None else min(stop, self.events)
        ends = np.cumsum([cluster.num_entries for cluster in self._ntuple.cluster_summaries])
        step = 1
        while start < stop and names:
            later = ends[ends > start]
            whole = later[later <= start + step]
            end = int(min(stop, whole[-1] if len(whole) else later[0]))
            array = self._ntuple.arrays(list(names), entry_start=start, entry_stop=end)
            offsets: dict[bytes, npt.NDArray[np.int64]] = {}
            columns = Columns(end - start, {name: self._column(array, name, offsets) for name in names})
            step = max(1, int(BATCH_BYTES * columns.n / max(1, columns.nbytes)))
            yield from (columns.slice(first, min(first + step, columns.n)) for first in range(0, columns.n, step))
            start = end

    def _column(self, array: Any, name: str, offsets: dict[bytes, npt.NDArray[np.int64]]) -> Column:
        for part in self._path(name, array):
            array = array[part]
        return to_column(array, offsets)

    @staticmethod
    def _path(name: str, array: Any) -> list[str]:
        """The steps to a field; a name may itself contain dots."""
        steps: list[str] = []
        while name:
            fields: list[str] = array.fields
            step = max((field for field in fields if name == field or name.startswith(field + ".")), key=len)
            steps.append(step)
            array, name = array[step], name[len(step) + 1 :]
        return steps

    def close(self) -> None:
        """Close the file."""
        self._ntuple.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _plain(form: Any) -> bool:
    return isinstance(form, ak.forms.NumpyForm) and not form.inner_shape


def _reason(form: Any, collection: str | None) -> str:
    """Why a field, or what a collection holds, cannot be a feature."""
    if form.parameter("__array__") in {"string", "char"}:
        return "strings"
    return f"lists of type {form.type}" if collection else f"type {form.type}"
