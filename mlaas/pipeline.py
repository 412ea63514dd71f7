"""The stages joined: prepare, fit, run, replay; and what is done with the result: inspect, predict."""

from __future__ import annotations

import fcntl
import glob
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlaas.console import SILENT, Progress
from mlaas.data.access import without_secrets
from mlaas.data.chunks import Split
from mlaas.data.inspect import Inspection, inspect_file
from mlaas.data.sources import resolve
from mlaas.errors import BundleError, Cancelled, DataError, ModelError
from mlaas.prepare import Described, Prepared, prepare
from mlaas.workflow import Workflow, parse

if TYPE_CHECKING:
    from mlaas.models.manifest import Manifest
    from mlaas.training.fit import Result

__all__ = ["Inspection", "Prepared", "Replay", "RunResult", "compute_specs", "fit", "inspect_file", "predict", "prepare", "replay", "run"]

PARITY_EVENTS = 2000
HISTOGRAM_EVENTS = 100_000


@dataclass(frozen=True)
class RunResult:
    """A finished run: where the bundle and the report are, the figures of the test split, and the seconds of each stage."""

    bundle: Path
    report: Path
    metrics: dict[str, Any]
    timings: dict[str, float]
    events: int


def compute_specs(workflow: Workflow, *, progress: Progress = SILENT) -> dict[str, Any]:
    """The specs in the published form (`mlaas.data.specs.published`)."""
    return prepare(workflow, progress=progress).published


def run(workflow: Workflow, *, out: Path, resume: bool = False, progress: Progress = SILENT) -> RunResult:
    """Prepare and fit: read the files, train the model, write its bundle to `out`."""
    return fit(workflow, out=out, resume=resume, progress=progress)


def fit(workflow: Workflow, *, out: Path, resume: bool = False, progress: Progress = SILENT) -> RunResult:
    """Train on handled data, preparing what is not prepared; write the bundle `out` with its report.

    While it runs, checkpoints and the metrics stream are in the folder `.<out>.run` beside it; `resume` goes on from there. What can be told
    before the files are read is checked first: the place of the bundle, and model.py up to the call of its function.
    Raises what `prepare`, `mlaas.training.fit.train` and `mlaas.models.bundle.write_bundle` raise; `out` then does not appear, and the
    folder stays only if a training can go on from its checkpoint.
    """
    from mlaas.training import devices
    from mlaas.training.fit import train
    from mlaas.training.usermodel import load

    out = out.expanduser()
    _free(out)
    _readable(workflow.model)
    function = load(workflow.model, workflow.params)
    clock = _Clock()
    prepared = prepare(workflow, progress=progress)
    dataset = prepared.dataset
    events = dataset.events
    clock.lap("prepare")
    progress.note(
        f"{sum(events.values()):,} events ({events['train']:,} train, {events['validation']:,} validation, {events['test']:,} test),"
        f" {dataset.width:,} feature columns, " + (f"classes {', '.join(dataset.classes)}" if dataset.classes else "regression")
    )
    with _run_folder(out, resume) as folder:
        devices.seed(workflow.params.seed)
        result = train(function(dataset.width), dataset, workflow.params, folder, resume=resume, progress=progress)
        clock.lap("train")
        manifest = _publish(out, workflow, prepared, result, folder, clock, progress)
    judged = _judged(result.metrics)
    if judged != "test":
        progress.note(f"there are no test events: the figures are those of the {judged} events (params.split holds events back)")
    if manifest.onnx.accepted:
        progress.note(f"ONNX form accepted: largest difference of scores {manifest.onnx.difference:.2g}")
    else:
        progress.note(f"no ONNX form ({manifest.onnx.reason}): the native engine serves")
    return RunResult(out, out / "report" / "index.html", dict(result.metrics[judged]), clock.laps, sum(events.values()))


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.laps[stage], self._last = now - self._last, now


def _judged(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The split whose figures stand for the model: the test events, or the next best that there are."""
    return next((split for split in ("test", "validation") if figures.get(split, {}).get("events")), "train")


def _free(out: Path) -> None:
    """The target must be new, or an earlier bundle, which is replaced; and its folder must be one that can be written to."""
    if os.path.lexists(out) and not _is_bundle(out):
        raise BundleError(f"{out} exists and is not a bundle; choose another name with --fout, or remove it")
    parent = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise BundleError(f"{out} cannot be written: {parent} is not a folder; choose another place with --fout")
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise BundleError(f"{out} cannot be written: the folder {parent} may not be written to; choose another place with --fout")


def _is_bundle(folder: Path) -> bool:
    """Whether there is a bundle's manifest: other software has files of that name too, and their folders must not be replaced."""
    from mlaas.models.manifest import read_manifest

    try:
        read_manifest(folder)
    except BundleError:
        return False
    return True


@contextmanager
def _run_folder(out: Path, resume: bool) -> Iterator[Path]:
    """The folder of a run under way; after an error it stays only if there is something in it to go on from."""
    folder = out.with_name(f".{out.name}.run")
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, out), _cleared(folder, out, resume, made):
        yield folder


@contextmanager
def _alone(folder: Path, out: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; the system gives it back however the process ends. Raises BundleError when another run holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BundleError(f"{out} is being written by another run; wait for it, or choose another place with --fout") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _cleared(folder: Path, out: Path, resume: bool, made: Sequence[Path]) -> Iterator[None]:
    """Clear up before and after a run; `made`: the folders above that were made for it."""
    for left in out.parent.glob(f".{glob.escape(out.name)}.tmp-*"):  # of a run that was killed while it wrote the bundle
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield
    except BaseException as error:
        lost = isinstance(error, ModelError) and not resume
        going_on = (folder / "checkpoint.zip").exists() and not lost
        if going_on and isinstance(error, KeyboardInterrupt):
            raise Cancelled(f"stopped after the training, before {out} was written; run again with --resume to write it") from None
        if not going_on:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # others may have put something there meanwhile
                for parent in made:
                    parent.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _readable(model: Path) -> None:
    if not model.is_file():
        raise DataError(f"model: there is no file {model}; give a Python file that defines model(idim)")


def _publish(out: Path, workflow: Workflow, prepared: Prepared, result: Result, folder: Path, clock: _Clock, progress: Progress) -> Manifest:
    from mlaas.models.bundle import write_bundle
    from mlaas.models.trained import TrainedModel

    adapter, dataset = result.adapter, prepared.dataset
    x, mask = _slice(prepared)
    scores = adapter.predict(x, mask if adapter.wants_mask else None)
    trained = TrainedModel(
        adapter.model, adapter.framework, adapter.output, dataset.task, dataset.classes, dataset.width, x, scores,
        mask if adapter.wants_mask else None, adapter.wants_mask,
    )  # fmt: skip
    document = _recorded(workflow)
    documents = {
        "features.json": prepared.features.to_json(),
        "specs.json": prepared.published,
        "metrics.json": {"metrics": result.metrics, "history": result.history, "epochs": result.epochs, "best_epoch": result.best_epoch},
        "workflow.json": document,
    }
    files = {"model.py": workflow.model, "metrics.jsonl": folder / "metrics.jsonl"}

    with ExitStack() as export:

        def finishing(staged: Path, manifest: Manifest) -> None:
            export.close()
            clock.lap("export")
            with progress.stage("report", None, ""):
                _report(staged / "report", out, document, prepared, result, manifest, clock)

        export.enter_context(progress.stage("export", None, ""))
        manifest = write_bundle(
            out, trained, documents, files, _provenance(workflow, prepared, result, clock),
            tolerance=workflow.params.onnx_tolerance, name=workflow.name, replace=out.exists(), finishing=finishing,
        )  # fmt: skip
    clock.lap("report")
    return manifest


def _recorded(workflow: Workflow) -> dict[str, Any]:
    """The document as the bundle keeps it, to be replayed from any folder: local paths absolute, no credentials, lists written out."""
    from mlaas.data.choose import names_in

    document: dict[str, Any] = workflow.model_dump(mode="json", by_alias=True)
    document["files"] = [_absolute(entry) for entry in workflow.files]
    document["params"]["redirector"] = without_secrets(workflow.params.redirector)
    document["model"] = "model.py"
    document["specs"] = "specs.json" if workflow.specs else None
    for field_name in ("selected_branches", "exclude_branches"):
        document["params"][field_name] = names_in(getattr(workflow.params, field_name))
    return document


def _absolute(path: str) -> str:
    """A local path (or wildcards) from the root; URLs without credentials, which a bundle that is handed on must not tell."""
    return without_secrets(path) if "://" in path else str(Path(path).expanduser().absolute())


def _slice(prepared: Prepared) -> tuple[Any, Any]:
    """Some events for the parity gate: of the validation split, or of the first that is not empty."""
    dataset = prepared.dataset
    order: tuple[Split, ...] = ("validation", "test", "train")
    split = next(split for split in order if dataset.events[split])
    rows, masks, left = [], [], PARITY_EVENTS
    for chunk in dataset.chunks(split, mask=True):
        pick = chunk.order[:left]
        rows.append(chunk.x[pick])
        masks.append(chunk.mask[pick] if chunk.mask is not None else np.zeros_like(rows[-1], np.bool_))
        left -= len(pick)
        if left <= 0:
            break
    return np.concatenate(rows), np.concatenate(masks)


def _provenance(workflow: Workflow, prepared: Prepared, result: Result, clock: _Clock) -> dict[str, Any]:
    files = [
        {"path": _absolute(file.source.path), "label": file.source.label, "weight": file.source.weight, "identity": file.identity,
         "entries": file.used, "selected": summary.events, "handled": file.key}
        for file, summary in zip(prepared.files, prepared.summaries, strict=True)
    ]  # fmt: skip
    return {"data": prepared.key, "seed": workflow.params.seed, "files": files, "epochs": result.epochs, "seconds": dict(clock.laps)}


def _report(folder: Path, out: Path, document: Mapping[str, Any], prepared: Prepared, result: Result, manifest: Manifest, clock: _Clock) -> None:
    from mlaas.report.data import BranchRead, FileRead, OnnxParity, ReportData, Scores
    from mlaas.report.histograms import FeatureHistograms
    from mlaas.report.write import write_report

    dataset, specs = prepared.dataset, prepared.specs
    branches = [
        BranchRead(slot.name, slot.kind, _dtype(prepared, slot.name), slot.width, _finite(found.low), _finite(found.high), found.nans)
        for slot in prepared.features.layout.slots
        for found in [specs.branches[slot.name]]
    ]
    histograms = FeatureHistograms(
        {branch.name: (branch.minimum, branch.maximum) for branch in branches}, len(dataset.classes), events=HISTOGRAM_EVENTS
    )
    for columns, target, weight in dataset.raw(HISTOGRAM_EVENTS):
        histograms.fill(columns, target.astype(np.int64) if dataset.classes else 0, weight)
    onnx = manifest.onnx
    data = ReportData(
        name=manifest.name, framework=manifest.framework, task=dataset.task, classes=dataset.classes, created=manifest.created.isoformat(),
        duration=sum(clock.laps.values()), stages=dict(clock.laps), versions=manifest.versions, workflow=document, bundle=str(out),
        files=[
            FileRead(file.source.path, _label(file), file.used, summary.events, _size(file.source.path),
                     summary.weights[0] * file.source.weight, file.identity)
            for file, summary in zip(prepared.files, prepared.summaries, strict=True)
        ],
        width=dataset.width, branches=branches, excluded=prepared.choice.left_out,
        scores={split: Scores(sample.scores, sample.labels, _weights(prepared, sample)) for split, sample in result.samples.items() if len(sample)},
        history=result.history, metrics=result.metrics, histograms=histograms.result(), hist=prepared.workflow.params.hist,
        onnx=OnnxParity(onnx.accepted, math.nan if onnx.difference is None else onnx.difference, onnx.tolerance, onnx.reason),
        target=prepared.workflow.labels if dataset.task == "regression" and isinstance(prepared.workflow.labels, str) else "",
    )  # fmt: skip
    write_report(folder, data)


def _weights(prepared: Prepared, sample: Any) -> Any:
    """The user's own weights: those of the training without its normalisation and class balance."""
    factors = prepared.dataset.factors
    index = sample.labels.astype(np.int64) if prepared.dataset.classes else np.zeros(len(sample), np.int64)
    return sample.weights / factors[index]


def _dtype(prepared: Prepared, name: str) -> str:
    branch = prepared.branches.get(name)
    return str(branch.dtype) if branch else "new"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _label(file: Described) -> str:
    return "" if file.source.label is None else str(file.source.label)


def _size(path: str) -> int:
    local = Path(path)
    return local.stat().st_size if local.is_file() else 0


def predict(
    bundle: Path,
    files: Sequence[str],
    *,
    output: Path = Path(),
    format: Literal["root", "parquet"] = "root",
    engine: Literal["auto", "onnx", "native"] = "auto",
    trust: bool = False,
    tree: str | None = None,
    redirector: str = "",
    progress: Progress = SILENT,
) -> list[Path]:
    """Score every entry of files of raw events; returns the written files, `<name>.scores.root` (or .parquet) in `output`.

    Raises DataError when two files would be written to the same place, and what `mlaas.models.friends.write_scores` raises.
    """
    from mlaas.models.friends import write_scores
    from mlaas.models.predict import Predictor

    paths = resolve(files, redirector=redirector) if redirector else resolve(files)
    targets = [output / f"{_stem(path)}.scores.{format}" for path in paths]
    twice = next((target for number, target in enumerate(targets) if target in targets[:number]), None)
    if twice is not None:
        raise DataError(f"two of the files would be written to {twice}; predict them one at a time with different --output folders")
    predictor = Predictor(bundle, engine, trust)
    return [write_scores(predictor, path, target, format=format, tree=tree, progress=progress) for path, target in zip(paths, targets, strict=True)]


def _stem(path: str) -> str:
    """The file's name without its extension and without the query of a URL."""
    return Path(path.split("?")[0].rstrip("/")).stem or "file"


@dataclass(frozen=True)
class Replay:
    """A training repeated: the figures of the test split then and now, and whether they agree within the AUC's error."""

    result: RunResult
    then: dict[str, Any]
    now: dict[str, Any]
    changed: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether the main figure (AUC, or R2 in regression) is the same within two standard errors of the difference (or 1e-6)."""
        name = "auc" if "auc" in self.then else "r2"
        before, after = self.then.get(name), self.now.get(name)
        if before is None or after is None:
            return before == after
        error = math.hypot(self.then.get("auc_error") or 0.0, self.now.get("auc_error") or 0.0)
        return bool(abs(after - before) <= max(2 * error, 0.02 if name == "r2" else 1e-6))

    def summary(self) -> str:
        """For a person: one line per figure, then the verdict."""
        lines = [
            f"{name:<12} then {_number(value)}  now {_number(self.now.get(name))}"
            for name, value in self.then.items()
            if isinstance(value, int | float)
        ]
        lines += [f"changed since then: {path}" for path in self.changed]
        lines.append("the two trainings agree" if self.agrees else "the two trainings DIFFER")
        return "\n".join([*lines, f"bundle   {self.result.bundle}", f"report   {self.result.report}"])


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}"


def replay(bundle: Path, *, out: Path, trust: bool = False, progress: Progress = SILENT) -> Replay:
    """Train again from what a bundle records and compare. The bundle's model.py is executed, so it needs `trust`."""
    from mlaas.models.bundle import read_bundle

    if out.expanduser().resolve() == bundle.resolve():
        raise BundleError(f"replaying into {out} would replace the bundle it is compared with; choose another name with --fout")
    opened = read_bundle(bundle)
    if not trust:
        raise BundleError(f"replaying {bundle} executes its model.py; if you trust where the bundle comes from, say so with --trust")
    provenance = opened.manifest.provenance
    with tempfile.TemporaryDirectory(prefix="mlaas-replay-") as folder:
        model = Path(folder) / "model.py"
        model.write_text(opened.text("model.py"))
        document = opened.json("workflow.json")
        document["model"] = str(model)
        if document.get("specs"):
            specs = Path(folder) / "specs.json"
            specs.write_text(json.dumps(opened.json("specs.json")))
            document["specs"] = str(specs)
        workflow = parse(document)
        before = {item["path"]: item["identity"] for item in provenance.get("files", [])}
        now = {_absolute(file.source.path): file.identity for file in prepare(workflow, progress=progress).files}
        changed = [path for path, identity in now.items() if before.get(path) not in (None, identity)]
        result = run(workflow, out=out, progress=progress)
    then = opened.json("metrics.json")["metrics"]
    return Replay(result, dict(then.get(_judged(then), {})), result.metrics, changed)
