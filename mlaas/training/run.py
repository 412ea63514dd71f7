"""What every way of learning shares: position, metrics stream, checkpoints, validation, early stopping, and being stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.console import SILENT, Progress, Stage
from mlaas.data.chunks import Chunk, Dataset, Split
from mlaas.errors import Cancelled, DataError, MLaaSError, ModelError, WorkflowError
from mlaas.training import checkpoint as checkpoints
from mlaas.training import metrics
from mlaas.training.adapter import Adapter, framework_errors
from mlaas.training.stream import MetricsStream
from mlaas.workflow import Params

CHECKPOINT_SECONDS = 30.0
INTERVAL_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores of a sample: scores canonical (n,) or (n, K), float32; labels (n,); weights (n,), float32, with their signs."""

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


class Run:
    """One training under way."""

    def __init__(
        self,
        adapter: Adapter,
        dataset: Dataset,
        params: Params,
        folder: Path,
        *,
        resume: bool = False,
        progress: Progress = SILENT,
        on_record: Callable[[dict[str, Any]], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.adapter, self.dataset, self.params, self.folder = adapter, dataset, params, folder
        self.progress, self._on_record, self._stop = progress, on_record, stop
        self.path = folder / checkpoints.NAME
        folder.mkdir(parents=True, exist_ok=True)
        self.best: bytes | None = None
        self.patience = params.early_stopping
        self.state = checkpoints.State(self._fingerprint())
        self._resume(resume)
        self.stream = MetricsStream(folder / "metrics.jsonl", self.state.stream)
        self._began = time.monotonic() - self.state.seconds
        self.checkpoint_pace = checkpoints.Pace(CHECKPOINT_SECONDS)
        self._interval_pace = checkpoints.Pace(INTERVAL_SECONDS)
        self._pace_from = (time.monotonic(), self.state.trained)

    # ---- position

    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same for a training to go on from a checkpoint."""
        names = (
            "procedure",
            "batch_size",
            "chunk_size",
            "shuffle",
            "seed",
            "negative_weights",
            "class_balance",
            "normalise",
            "weight",
            "file_weights",
            "learning_rate",
            "loss",
            "optimizer",
        )
        found: dict[str, Any] = {name: getattr(self.params, name) for name in names}
        return found | {
            "model": f"{type(self.adapter.model).__module__}.{type(self.adapter.model).__qualname__}",
            "padding": str(self.params.nan),
            "data": self.dataset.key,
            "task": self.dataset.task,
            "classes": list(self.dataset.classes),
            "columns": list(self.dataset.columns),
            "events": dict(self.dataset.events),
        }

    def _resume(self, wanted: bool) -> None:
        if not wanted:
            self.path.unlink(missing_ok=True)
            return
        found = checkpoints.load(self.path)
        if found is None:
            self.progress.note(f"there is no checkpoint in {self.folder}: the training begins anew")
            return
        for name, now in self.state.fingerprint.items():
            then = found.state.fingerprint.get(name)
            if then != now:
                raise WorkflowError(
                    f"the checkpoint in {self.folder} is of another training ({name} {_differs(then, now)}): train anew, without resume"
                )
        try:
            self.adapter.load(found.learner)
        except MLaaSError:
            raise
        except Exception as error:
            raise DataError(
                f"the checkpoint {self.path} does not fit the model that model.py makes now ({error}): train anew, without resume"
            ) from error
        self.state, self.best = found.state, found.best
        self.progress.note(f"going on from the checkpoint: epoch {self.state.epoch + 1}, chunk {self.state.chunk + 1}")

    def save(self, finished: bool = False) -> None:
        """Write a checkpoint of the position now."""
        self.state.finished = finished
        self.state.stream = self.stream.place
        self.state.seconds = self.seconds
        checkpoints.save(self.path, checkpoints.Checkpoint(self.state, self.adapter.dump(), self.best))
        self.checkpoint_pace.reset()

    @property
    def seconds(self) -> float:
        """Time spent in this training, in s, that before a resume included."""
        return time.monotonic() - self._began

    # ---- being stopped

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop is not None and self._stop()

    def check(self) -> None:
        """Raise Cancelled when the run was asked to stop."""
        if self.stopping:
            raise self.cancelled()

    def boundary(self, due: bool = False) -> None:
        """Between two chunks: write a checkpoint when it is time or `due`, or when the run is to stop."""
        if self.stopping:
            self.save()
            raise self.cancelled()
        if due or self.checkpoint_pace.due():
            self.save()

    def cancelled(self) -> Cancelled:
        """The exception that says how far the training is and what remains."""
        kept = (
            f"its last checkpoint is {self.path}; run again with --resume to go on from there"
            if self.path.exists()
            else "there was no checkpoint yet"
        )
        return Cancelled(f"the training was stopped in epoch {self.state.epoch + 1}: {kept}")

    # ---- chunks

    def training_chunks(self, epoch: int, start: int = 0) -> Iterator[Chunk]:
        """Training chunks with negative weights dealt with as the workflow says; valid until the next is asked for."""
        for chunk in self.dataset.chunks("train", epoch=epoch, start=start, mask=self.adapter.wants_mask):
            yield treat_negative(chunk, self.params.negative_weights) if self.dataset.negative else chunk

    def learnt(self, stage: Stage, chunk: Chunk, loss: float) -> None:
        """Count a chunk in; refuse a loss that is not a number; write an interval line when it is time."""
        state = self.state
        state.loss += loss * len(chunk)
        state.events += len(chunk)
        state.trained += len(chunk)
        state.since += len(chunk)
        stage.advance(len(chunk))
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss became {loss} in epoch {state.epoch + 1}, chunk {state.chunk + 1}: lower the learning rate, "
                "keep params.normalise at minmax, and look for very large weights or values (mlaas inspect shows ranges)"
            )
        if self._interval_pace.due():
            self.record("interval", loss=state.loss / max(state.events, 1))

    # ---- validation and records

    def evaluate(self, split: Split, limit: int | None = None) -> tuple[Sample, float | None]:
        """Scores of a split (of about `limit` events of it) and the mean loss over its events; None for no events."""
        scores, labels, weights = [], [], []
        total, events = 0.0, 0
        for chunk in self.dataset.chunks(split, mask=self.adapter.wants_mask) if self.dataset.events[split] else ():
            if limit is not None and events + len(chunk) > limit:
                chunk = _first(chunk, limit - events)
            with framework_errors("evaluating the model"):
                found, loss = self.adapter.evaluate(chunk)
            self._finite(found)
            scores.append(found)
            labels.append(chunk.y.copy())
            weights.append(chunk.weight.copy())
            total += loss * len(chunk)
            events += len(chunk)
            self.check()
            if limit is not None and events >= limit:
                break
        if not events:
            return _empty(self.dataset), None
        return Sample(np.concatenate(scores), np.concatenate(labels), np.concatenate(weights)), total / events

    def _finite(self, scores: npt.NDArray[np.float32]) -> None:
        bad = int(np.count_nonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1)))
        if bad:
            raise ModelError(
                f"the model gives scores that are not numbers for {bad} of {len(scores)} events: it has diverged; lower its learning rate, "
                "and look at negative weights (params.negative_weights) and at the ranges of the features"
            )

    def summary(self, sample: Sample) -> dict[str, Any]:
        """The figures of a sample."""
        return metrics.summary(self.dataset.task, self.dataset.classes, sample.labels, sample.scores, sample.weights)

    def validated(self) -> dict[str, Any]:
        """Validate now: val_loss and val_ figures for a record; empty without validation events."""
        sample, loss = self.evaluate("validation")
        if loss is None:
            return {}
        return {"val_loss": loss} | self.val_figures(sample)

    def val_figures(self, sample: Sample) -> dict[str, Any]:
        """The figures of a validation sample that go into a record."""
        figures = self.summary(sample)
        names = ("auc", "accuracy") if self.dataset.task == "classification" else ("mse", "r2")
        return {f"val_{name}": figures[name] for name in names}

    def record(self, kind: str, *, loss: float | None, **figures: Any) -> dict[str, Any]:
        """Write a line of the metrics stream; all but "interval" enter the history too."""
        state = self.state
        line: dict[str, Any] = {"kind": kind, "epoch": state.epoch + 1, "chunk": state.chunk, "events": state.trained, "loss": loss} | figures
        line = {"events_per_s": self.rate()} | line | {"seconds": round(self.seconds, 3)}
        written = self.stream.write(line)
        if kind != "interval":
            state.history.append(written)
        if self._on_record:
            self._on_record(written)
        return written

    def rate(self) -> float:
        """Events learnt from per second, since the last validation."""
        began, trained = self._pace_from
        now = time.monotonic()
        rate = (self.state.trained - trained) / max(now - began, 1e-9)
        return round(rate, 1)

    def restart_clock(self) -> None:
        """Begin to measure the training rate anew (after a validation, which is no training)."""
        self._pace_from = (time.monotonic(), self.state.trained)

    def improved(self, val_loss: float | None, keep: Callable[[], bytes | None]) -> bool:
        """Enter a validation loss into early stopping, keeping the model when it is the best so far; returns whether to stop."""
        state = self.state
        if not self.patience or val_loss is None:
            return False
        if state.best_loss is None or val_loss < state.best_loss:
            state.best_loss, state.best_epoch, state.waited = val_loss, len(state.history), 0
            self.best = keep()
            return False
        state.waited += 1
        return state.waited >= self.patience

    def need_validation(self) -> None:
        """Raise WorkflowError when early stopping is on and there is nothing to validate with."""
        if self.patience and not self.dataset.events["validation"]:
            raise WorkflowError("params.early_stopping needs validation events: raise params.split, or read more events")


def treat_negative(chunk: Chunk, how: str) -> Chunk:
    """A chunk with its negative weights kept ("keep"), made positive ("abs"), or their events left out ("zero")."""
    if how == "keep" or not len(chunk) or chunk.weight.min() >= 0:
        return chunk
    if how == "abs":
        return Chunk(chunk.x, chunk.y, np.abs(chunk.weight), chunk.mask, chunk.order)
    return _rows(chunk, chunk.order[chunk.weight[chunk.order] > 0])


def _rows(chunk: Chunk, rows: npt.NDArray[np.int64]) -> Chunk:
    mask = None if chunk.mask is None else chunk.mask[rows]
    return Chunk(chunk.x[rows], chunk.y[rows], chunk.weight[rows], mask, np.arange(len(rows)))


def _first(chunk: Chunk, n: int) -> Chunk:
    """The first n events in the order in which they are walked (proportional between files)."""
    return _rows(chunk, chunk.order[:n])


def _empty(dataset: Dataset) -> Sample:
    wide = len(dataset.classes) > 2 and dataset.task == "classification"
    scores = np.zeros((0, len(dataset.classes)) if wide else 0, np.float32)
    return Sample(scores, np.zeros(0, np.int64 if dataset.task == "classification" else np.float32), np.zeros(0, np.float32))


def _differs(then: Any, now: Any) -> str:
    return f"was {then}, is {now}" if isinstance(now, str | int | float | bool) else "differs"
