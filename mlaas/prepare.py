"""The reading stage: from a workflow to handled data, specs, features and a dataset. `mlaas prepare` runs it alone.

Files are read at most once: each file's selected events are kept under a key of all they depend on (`mlaas.data.handled`), and what was found out
about the whole job is kept beside them, so that the training stage can run elsewhere with nothing but the shared storage.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import resource
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.console import SILENT, Progress, Stage
from mlaas.data import handled
from mlaas.data.choose import Choice, agree, choose, doubtful_identifiers
from mlaas.data.columns import Columns
from mlaas.data.dataset import Options, Part, PreparedDataset
from mlaas.data.expressions import Expression, compile_expression
from mlaas.data.features import Features
from mlaas.data.files import Branch, EventFile
from mlaas.data.handled import Summary, Writer, digest, read_batches, read_summary
from mlaas.data.labels import Labels, make_labels
from mlaas.data.layout import make_layout
from mlaas.data.preproc import plan
from mlaas.data.reader import open_events
from mlaas.data.selected import Selected, Selection, check_label
from mlaas.data.sources import Source, detect, expand, explain
from mlaas.data.specs import Specs, override, published
from mlaas.errors import Cancelled, DataError, MissingExtraError, MLaaSError, ResourceError, nearest
from mlaas.settings import settings
from mlaas.workflow import DEFAULT_IDENTIFIER, Workflow, read_json

MANY_FILES = 32


@dataclass(frozen=True)
class Described:
    """One file as prepared: where it is, what it holds, and which entries are used."""

    source: Source
    identity: str
    entries: int
    used: int
    key: str

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        source = self.source
        where = {"path": source.path, "label": source.label, "weight": source.weight, "entry": source.entry}
        return {"source": where, "identity": self.identity, "entries": self.entries, "used": self.used, "key": self.key}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Described:
        """The inverse of `to_json`."""
        return cls(**{**document, "source": Source(**document["source"])})


@dataclass(frozen=True)
class Prepared:
    """All that the reading stage found: the training stage needs nothing else.

    files and summaries belong together. branches: every readable branch of the first file. choice: the features before preproc.
    """

    workflow: Workflow
    folder: Path
    files: tuple[Described, ...]
    summaries: tuple[Summary, ...]
    branches: dict[str, Branch]
    choice: Choice
    selection: Selection
    reused: int = 0

    @property
    def key(self) -> str:
        """The digest of the keys of all files."""
        return digest({"files": [file.key for file in self.files]})

    @property
    def events(self) -> int:
        """How many events were selected."""
        return sum(summary.events for summary in self.summaries)

    @cached_property
    def counted(self) -> tuple[Summary, ...]:
        """The summaries; those of files with weight 0 as if nothing had been selected: such a file is left out."""
        return tuple(
            summary if file.source.weight else replace(summary, events=0, specs=Specs())
            for file, summary in zip(self.files, self.summaries, strict=True)
        )

    @cached_property
    def specs(self) -> Specs:
        """The specs over all files, or those that the user gave."""
        merged = Specs()
        for summary in self.counted:
            merged.merge(summary.specs)
        return merged if self.workflow.specs is None else override(merged, read_json(str(self.workflow.specs), "specs"))

    @property
    def published(self) -> dict[str, Any]:
        """The specs in the published form."""
        return published(self.specs, [(file.source.path, summary.events) for file, summary in zip(self.files, self.counted, strict=True)])

    @cached_property
    def labels(self) -> Labels:
        """Task, classes and each file's class."""
        params = self.workflow.params
        given = self.workflow.labels if isinstance(self.workflow.labels, str) else [file.source.label for file in self.files]
        return make_labels(
            given, params.task, params.classes, [(file.source.path, summary) for file, summary in zip(self.files, self.counted, strict=True)]
        )

    @cached_property
    def features(self) -> Features:
        """From raw branches to the matrix."""
        params = self.workflow.params
        layout = make_layout(self.specs, [name for name in self.selection.plan.outputs if name in self.specs.branches], params.normalise)
        sources = {name: self.branches[name] for name in self.selection.plan.read}
        return Features(layout, self.workflow.preproc, self.choice.wanted, sources, params.branch, params.nan)

    @cached_property
    def dataset(self) -> PreparedDataset:
        """The events in chunks. Raises DataError when no event passed the cuts or a label is outside the classes."""
        params = self.workflow.params
        options = Options(params.chunk_size, params.shuffle, params.seed, params.fractions, params.class_balance, params.nan, params.negative_weights)
        return PreparedDataset(list(self._parts()), self.features.layout, self.labels.task, self.labels.classes, options, self.key)

    def _parts(self) -> Iterator[Part]:
        for number, (file, summary) in enumerate(zip(self.files, self.summaries, strict=True)):
            if not file.source.weight:
                continue  # a file without events stays: its number counts in the split, which must not depend on cuts
            yield Part(file.source.path, self._batches(file, summary), self.labels.of_file[number], file.source.weight, summary.events)

    def _batches(self, file: Described, summary: Summary) -> Any:
        root = self.folder

        def batches(columns: bool) -> Iterator[Selected]:
            if columns and not summary.columns:
                return self._streamed(file)
            return read_batches(root, summary, columns=columns)

        return batches

    def _streamed(self, file: Described) -> Iterator[Selected]:
        """The selected events straight from the file, when no columns are kept."""
        with _open(file.source.path, self.workflow, 1) as events:
            for selected, _ in _select(events, self.selection, file.used):
                if len(selected):
                    yield selected

    def summary(self) -> str:
        """What was prepared, for a person."""
        size = sum(summary.bytes for summary in self.summaries)
        lines = [
            f"handled data {self.key}: {self.events:,} events selected of {sum(file.used for file in self.files):,} in {len(self.files)} files,"
            f" {self.features.width:,} feature columns, {size / 1e6:,.1f} MB in {self.folder}"
        ]
        if self.reused:
            lines.append(f"{self.reused} of {len(self.files)} files were not read again: their handled data were there")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """What is kept beside the handled data."""
        branches = {name: [branch.dtype.str.lstrip("<>=|"), branch.kind, branch.counter] for name, branch in self.branches.items()}
        choice = {"wanted": list(self.choice.wanted), "left_out": dict(self.choice.left_out)}
        return {"format": handled.FORMAT, "files": [file.to_json() for file in self.files], "branches": branches, "choice": choice}


def prepare(workflow: Workflow, *, progress: Progress = SILENT, cache: Path | None = None) -> Prepared:
    """Read what was not read before; files that are gone are replaced by what was prepared of them earlier.

    Raises DataError, WorkflowError or ResourceError. Ctrl-C ends all threads and leaves nothing half-written.
    """
    root = (cache or settings().cache).expanduser()
    folder, note = root / "handled", root / "prepared" / f"{digest(_inputs(workflow))}.json"
    try:
        prepared = _prepare(workflow, folder, progress)
    except (DataError, MissingExtraError) as error:
        kept = _recall(workflow, folder, note) if _gone(workflow) else None
        if kept is None:
            raise
        progress.note(f"{error}; going on with the handled data that were prepared before")
        return kept
    if not prepared.specs.events:
        raise DataError(
            f"no event is left of {sum(file.used for file in prepared.files):,}: the cuts of preproc or the weights leave all of them out"
        )
    _remember(note, prepared)
    return prepared


def _gone(workflow: Workflow) -> bool:
    """Whether a file is not on this machine: only then may what was prepared before stand in for it, not when it is damaged or has changed."""
    local = [Path(entry).expanduser() for entry in workflow.files if "://" not in entry]
    return len(local) < len(workflow.files) or not all(path.exists() or glob.glob(str(path), recursive=True) for path in local)  # noqa: PTH207


def _inputs(workflow: Workflow) -> dict[str, Any]:
    """The part of a workflow on which handled data depend."""
    params = workflow.params
    names = ("nevts", "identifier", "branch", "selected_branches", "exclude_branches", "redirector", "weight", "handled")
    chosen = {name: getattr(params, name) for name in names}
    label = workflow.labels if isinstance(workflow.labels, str) else None
    return {"files": workflow.files, "label": label, "params": chosen, "preproc": workflow.preproc.model_dump(mode="json"), "dtype": workflow.dtype}


def _prepare(workflow: Workflow, folder: Path, progress: Progress) -> Prepared:
    params = workflow.params
    sources = expand(workflow.files, workflow.labels, params.file_weights, redirector=params.redirector)
    workers = params.workers or os.cpu_count() or 1
    with ExitStack() as stack:
        files = _open_all(sources, workflow, workers, stack, progress)
        first = files[0]
        label = workflow.labels if isinstance(workflow.labels, str) else None
        weight = _weight(params.weight, first)
        choice = _choose(workflow, first, label, weight)
        selection = _selection(workflow, first, choice, label, weight)
        for other in files[1:]:
            agree(first, other, selection.read)
        used = shares(params.nevts, [file.events for file in files])
        described = tuple(
            Described(source, file.identity, file.events, share, _key(workflow, file, selection, share))
            for source, file, share in zip(sources, files, used, strict=True)
        )
        _tell(choice, progress)
        given = [] if params.identifier == DEFAULT_IDENTIFIER else params.identifier  # the default names are tried on every file
        for sentence in doubtful_identifiers(first, given, choice.wanted):
            progress.note(sentence)
        summaries, reused = _read_all(workflow, folder, described, files, selection, workers, progress)
    return Prepared(workflow, folder, described, summaries, dict(first.branches), choice, selection, reused)


def _open(path: str, workflow: Workflow, workers: int) -> EventFile:
    return open_events(path, tree=workflow.params.branch, dtype=workflow.dtype, workers=workers)


def _open_all(sources: Sequence[Source], workflow: Workflow, workers: int, stack: ExitStack, progress: Progress) -> list[EventFile]:
    """Open all files, several at a time."""
    each = max(1, workers // len(sources))
    _allow_descriptors(4 * len(sources))
    pool = ThreadPoolExecutor(min(16, len(sources)))
    with progress.stage("open files", len(sources), "files") as stage:

        def one(source: Source) -> EventFile:
            file = stack.enter_context(_open(source.path, workflow, each))
            file.events  # noqa: B018 (formats without an index count their events here, in parallel)
            stage.advance(1)
            return file

        try:
            return list(pool.map(one, sources))
        finally:
            pool.shutdown(cancel_futures=True)


def _allow_descriptors(more: int) -> None:
    """All files are open at once: raise this process's limit of open files as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = more + 512 if hard == resource.RLIM_INFINITY else min(hard, more + 512)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _weight(text: str, file: EventFile) -> Expression | None:
    if not text:
        return None
    expression = compile_expression(text, {name: branch.kind for name, branch in file.branches.items()})
    if not expression.names:
        raise DataError(f"params.weight: {text!r} names no branch; constant weights of files go into params.file_weights")
    return expression


def _choose(workflow: Workflow, file: EventFile, label: str | None, weight: Expression | None) -> Choice:
    params = workflow.params
    if label is not None:
        if label not in file.branches:
            why = f" ({file.excluded[label]})" if label in file.excluded else nearest(label, file.branches)
            raise DataError(f"labels: {label!r} is neither a file nor a branch of {file.path} that holds numbers{why}")
        check_label(label, {name: branch.kind for name, branch in file.branches.items()})
    hidden = weight.names if weight else frozenset()
    choice = choose(file, selected=params.selected_branches, excluded=params.exclude_branches, identifier=params.identifier, hidden=hidden)
    wanted = tuple(name for name in choice.wanted if name != label)
    if not wanted:
        raise DataError(f"params.selected_branches: only the label branch {label!r} is left; choose features")
    return Choice(wanted, choice.left_out)


def _selection(workflow: Workflow, file: EventFile, choice: Choice, label: str | None, weight: Expression | None) -> Selection:
    kinds = {name: branch.kind for name, branch in file.branches.items()}
    return Selection(plan(workflow.preproc, kinds, choice.wanted), label, weight, frozenset(workflow.preproc.new_branch))


def shares(nevts: int, entries: Sequence[int]) -> list[int]:
    """How many entries to use of each file: all for -1, else `nevts` in proportion to the files' sizes (largest remainders)."""
    total = sum(entries)
    if nevts < 0 or nevts >= total:
        return list(entries)
    exact = [nevts * size / total for size in entries]
    out = [int(value) for value in exact]
    order = sorted(range(len(entries)), key=lambda index: (out[index] - exact[index], index))
    for index in order[: nevts - sum(out)]:
        out[index] += 1
    return out


def _key(workflow: Workflow, file: EventFile, selection: Selection, used: int) -> str:
    """The digest of everything that the handled data of a file depend on."""
    fixed = file.identity if file.identity.startswith("root:") else f"{file.identity}:{file.path}"
    document = {
        "format": handled.FORMAT,
        "identity": fixed,
        "tree": workflow.params.branch,
        "read": selection.read,
        "outputs": list(selection.plan.outputs),
        "preproc": workflow.preproc.model_dump(mode="json"),
        "label": selection.label,
        "weight": selection.weight.text if selection.weight else "",
        "entries": used,
        "columns": workflow.params.handled,
    }
    return digest(document)


def _tell(choice: Choice, progress: Progress) -> None:
    if choice.left_out:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in list(choice.left_out.items())[:8])
        more = f" and {len(choice.left_out) - 8} more" if len(choice.left_out) > 8 else ""
        progress.note(f"left out, since they cannot be features: {reasons}{more}")


def _read_all(
    workflow: Workflow,
    folder: Path,
    described: Sequence[Described],
    files: Sequence[EventFile],
    selection: Selection,
    workers: int,
    progress: Progress,
) -> tuple[tuple[Summary, ...], int]:
    """The summaries of all files, and how many were there already; files are read in parallel."""
    found = [read_summary(folder, file.key) for file in described]
    todo = [number for number, summary in enumerate(found) if summary is None]
    if not todo:
        return tuple(summary for summary in found if summary is not None), len(found)
    stop = threading.Event()
    with progress.stage("read and select", sum(described[number].used for number in todo), "events") as stage:
        pool = ThreadPoolExecutor(min(workers, len(todo)))
        try:
            size = _batch_events(len(files))
            jobs = {pool.submit(_read, workflow, folder, described[number], files[number], selection, stage, stop, size): number for number in todo}
            for job in as_completed(jobs):
                found[jobs[job]] = job.result()
        except BaseException:
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return tuple(summary for summary in found if summary is not None), len(found) - len(todo)


def _read(
    workflow: Workflow,
    folder: Path,
    described: Described,
    file: EventFile,
    selection: Selection,
    stage: Stage,
    stop: threading.Event,
    batch_events: int,
) -> Summary:
    with Writer(folder, described.key, columns=workflow.params.handled, batch_events=batch_events) as writer:
        for selected, entries in _select(file, selection, described.used):
            if stop.is_set():
                raise Cancelled("stopped while reading")
            writer.write(selected, entries)
            stage.advance(entries)
        return writer.publish()


def _batch_events(files: int) -> int:
    """Events per batch of handled data: as they come for few files, smaller for many, so that a batch of each fits into memory."""
    return 0 if files <= MANY_FILES else max(256, handled.BATCH_EVENTS * MANY_FILES // files)


def _select(file: EventFile, selection: Selection, used: int) -> Iterator[tuple[Selected, int]]:
    """The selected events of a file's first `used` entries, with how many entries each batch was made from."""
    first = 0
    with contextlib.closing(_batches(file, selection.read, used)) as batches:
        for columns in batches:
            yield selection.apply(columns, first, file.path), columns.n
            first += columns.n
    if first < used:
        raise DataError(f"{file.path} ends after {first:,} of {used:,} entries; it is truncated")


def _batches(file: EventFile, names: Sequence[str], used: int) -> Generator[Columns]:
    """The first `used` entries of a file; what goes wrong in reading is told in one sentence."""
    try:
        yield from file.batches(names, 0, used)
    except MLaaSError:
        raise
    except MemoryError as error:
        raise ResourceError(f"memory does not suffice to read {file.path}; lower params.workers, or choose fewer branches") from error
    except Exception as error:
        raise explain(file.path, error) from error


def _remember(note: Path, prepared: Prepared) -> None:
    """Keep what was found out beside the handled data; failing to is no failure of the job."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_name(f".{note.name}.{os.getpid()}.{threading.get_ident()}")
        aside.write_text(json.dumps(prepared.to_json()))
        aside.replace(note)
    except OSError:
        return


def _recall(workflow: Workflow, folder: Path, note: Path) -> Prepared | None:
    """What an earlier run prepared for the same workflow, if its handled data are all there."""
    try:
        document = json.loads(note.read_text())
        files = tuple(Described.from_json(item) for item in document["files"])
        branches = {name: Branch(name, np.dtype(dtype), kind, counter) for name, (dtype, kind, counter) in document["branches"].items()}
        choice = Choice(tuple(document["choice"]["wanted"]), document["choice"]["left_out"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sources = _relabel(workflow, files)
    summaries = [read_summary(folder, file.key) for file in files]
    whole = [summary for summary in summaries if summary is not None and summary.columns]
    if sources is None or document.get("format") != handled.FORMAT or len(whole) != len(files):
        return None
    kinds = {name: branch.kind for name, branch in branches.items()}
    weight = compile_expression(workflow.params.weight, kinds) if workflow.params.weight else None
    label = workflow.labels if isinstance(workflow.labels, str) else None
    selection = Selection(plan(workflow.preproc, kinds, choice.wanted), label, weight, frozenset(workflow.preproc.new_branch))
    return Prepared(workflow, folder, sources, tuple(whole), branches, choice, selection, len(files))


def _relabel(workflow: Workflow, files: tuple[Described, ...]) -> tuple[Described, ...] | None:
    """The files with the labels and weights that this workflow gives them."""
    if isinstance(workflow.labels, str):
        labels: dict[str, Any] = dict.fromkeys(workflow.files)
    else:
        labels = dict(zip(workflow.files, workflow.labels, strict=True))
    weights = dict(zip(workflow.files, workflow.params.file_weights or [1.0] * len(workflow.files), strict=True))
    out = []
    for file in files:
        source = file.source
        if source.entry not in labels:
            return None
        out.append(
            Described(
                Source(source.path, labels[source.entry], weights[source.entry], source.entry), file.identity, file.entries, file.used, file.key
            )
        )
    return tuple(out)


__all__ = ["Described", "Prepared", "detect", "prepare", "shares"]
