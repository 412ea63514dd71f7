"""Write toy events to ROOT files, in each layout that experiments use.

- counters: TTree with leaf-count arrays (`jet_pt[njet]`), as NanoAOD; by uproot.
- rntuple: RNTuple with one vector field per list; by uproot.
- vector: TTree with `std::vector` branches, as most analysis ntuples; uproot cannot write them, ROOT's own wheel from PyPI (extra `root`) can.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from shutil import copyfile
from typing import Any

from mlaas.console import SILENT, Progress
from mlaas.data.columns import Columns, Jagged, concatenate
from mlaas.demo import Compression, Layout, Process, Profile
from mlaas.demo.events import COLLECTIONS, blocks
from mlaas.errors import DataError

WORKFLOW_FILES = ("files.txt", "labels.txt", "model.py", "params.json", "preproc.json")


def write(
    path: str | Path,
    events: int,
    process: Process = "signal",
    *,
    profile: Profile = "brief",
    seed: int = 1,
    layout: Layout = "counters",
    compression: Compression = "zlib",
    basket: int = 10_000,
    targets: bool = False,
    tree: str = "events",
    progress: Progress = SILENT,
) -> Path:
    """Write `events` toy events of one process to a ROOT file and return its path.

    basket: events per basket (TTree) or per cluster (RNTuple). tree: name of the TTree or RNTuple; may contain "/" (layout counters).
    profile, seed, targets: see `mlaas.demo.events.blocks`. Raises MissingExtraError for layout "vector" without ROOT, DataError when the
    file cannot be written; nothing half-written stays behind.
    """
    if events < 1 or basket < 1:
        raise DataError(f"events and basket must be at least 1 (given: {events} and {basket})")
    path = Path(path)
    aside = path.with_name(f".{path.name}.part")
    batches = _regroup(blocks(events, process, profile=profile, seed=seed, targets=targets), basket)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with progress.stage(f"write {path.name}", events) as stage:
            counted = _counted(batches, stage.advance)
            if layout == "vector":
                from mlaas.demo.vector import write_vectors

                write_vectors(aside, tree, counted, compression)
            else:
                _write_uproot(aside, tree, counted, layout, compression)
        aside.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return path


def write_pair(folder: str | Path, events: int, **options: Any) -> tuple[Path, Path]:
    """Write `events` toy events, half to folder/signal.root and half to folder/background.root; options as for `write`."""
    folder = Path(folder)
    half = events // 2
    return (
        write(folder / "signal.root", events - half, "signal", **options),
        write(folder / "background.root", half, "background", **options),
    )


def write_workflow(folder: str | Path) -> list[Path]:
    """Put a workflow for the pair into the folder: files.txt, labels.txt, model.py, params.json, preproc.json; files already there stay."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in WORKFLOW_FILES:
        target = folder / name
        if target.exists():
            continue
        with as_file(files("mlaas.demo") / "files" / name) as source:
            copyfile(source, target)
        written.append(target)
    return written


def _regroup(batches: Iterator[Columns], size: int) -> Iterator[Columns]:
    """The same events in batches of `size`."""
    held: list[Columns] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) < size:
            continue
        joined = concatenate(held)
        whole = len(joined) - len(joined) % size
        for start in range(0, whole, size):
            yield joined.slice(start, start + size)
        held = [joined.slice(whole, len(joined))] if whole < len(joined) else []
    if held:
        yield concatenate(held)


def _counted(batches: Iterator[Columns], advance: Any) -> Iterator[Columns]:
    for batch in batches:
        yield batch
        advance(len(batch))


def _write_uproot(path: Path, tree: str, batches: Iterator[Columns], layout: Layout, compression: Compression) -> None:
    import uproot

    codec = {"zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(4), "zstd": uproot.ZSTD(5), "none": None}[compression]
    with uproot.recreate(path, compression=codec) as file:
        target = None
        for batch in batches:
            arrays = _collections(batch) if layout == "counters" else _plain(batch)
            if layout == "rntuple" and target is None:
                target = file.mkrntuple(tree, arrays)
                continue
            if target is None:
                types = {name: array.type.content if hasattr(array, "type") else array.dtype for name, array in arrays.items()}
                target = file.mktree(tree, types, counter_name=lambda name: f"n{name}", field_name=lambda outer, inner: f"{outer}_{inner}")
            target.extend(arrays)


def _plain(batch: Columns) -> dict[str, Any]:
    """Each list as an awkward array of its own."""
    return {name: _awkward(column) if isinstance(column, Jagged) else column for name, column in batch.data.items()}


def _collections(batch: Columns) -> dict[str, Any]:
    """The lists of each collection zipped, so that uproot writes one counter for all; counters are left to uproot."""
    import awkward as ak

    counters = {f"n{name}" for name in COLLECTIONS}
    out = {name: column for name, column in batch.data.items() if not isinstance(column, Jagged) and name not in counters}
    plain: Mapping[str, Any] = _plain(batch)
    for name, collection in COLLECTIONS.items():
        out[name] = ak.zip({field: plain[f"{name}_{field}"] for field in collection.fields})
    return out


def _awkward(column: Jagged) -> Any:
    import awkward as ak

    layout = ak.contents.ListOffsetArray(ak.index.Index64(column.offsets - column.offsets[0]), ak.contents.NumpyArray(column.flat))
    return ak.Array(layout)
