"""Train a model on a dataset: the one way in for the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas.console import SILENT, Progress
from mlaas.data.chunks import SPLITS, Dataset, Split
from mlaas.errors import DataError
from mlaas.training.adapter import Adapter, Problem, Rounds, Streaming, Whole, adapt
from mlaas.training.gradient import train_streaming
from mlaas.training.run import Run, Sample
from mlaas.training.whole import train_whole
from mlaas.workflow import Params

TRAIN_SAMPLE = 200_000


@dataclass(frozen=True, eq=False)
class Result:
    """A finished training.

    adapter: with the trained model (the best one, when early stopping is on). history: the records of the metrics stream, its intervals left out.
    metrics: the figures per split ("train" over a sample), with the loss. samples: scores, labels and weights per split; "train" holds at most
    TRAIN_SAMPLE events. epochs: passes completed (rounds for XGBoost, 1 for an estimator that fits once). best_epoch: the pass that was kept, None
    without early stopping. trained: events learnt from, repetitions included. seconds: time spent, that before a resume included.
    """

    adapter: Adapter
    history: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    samples: dict[Split, Sample]
    epochs: int
    best_epoch: int | None
    trained: int
    seconds: float


def train(
    model: Any,
    dataset: Dataset,
    params: Params,
    run_dir: Path,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Result:
    """Train a model and evaluate it on every split.

    model: an Adapter, or what `model.py` returned. run_dir: gets `metrics.jsonl` and `checkpoint.zip`. resume: go on from the checkpoint there,
    exactly where it was written; without one begin anew. on_record: called with every record of the metrics stream. stop: asked between batches;
    true ends the training with a checkpoint.

    Two procedures (`params.procedure`). `passes`, the default: `epochs` passes over all the data, chunk inside epoch. `chunks`: `epochs` passes
    over each chunk in turn, every chunk once, as the original does. `passes` is the default because it is what "epoch" means everywhere else: the
    result does not depend on how the data are cut into chunks, the model does not fit itself to one chunk and forget the earlier ones, validation
    after each pass is comparable, and early stopping and schedules of the learning rate work. `chunks` reads the data once only, which counts when
    they come over a wide-area network and are not kept as handled data.

    Raises ModelError (the model does not fit the problem, fails, or diverges), ResourceError (memory, disk, GPU), WorkflowError (parameters that
    contradict each other or the checkpoint), DataError (nothing to train on), Cancelled (`stop`, or Ctrl-C; the last checkpoint is kept).
    """
    _enough(dataset)
    adapter = model if isinstance(model, Adapter) else adapt(model, Problem.of(dataset), params)
    run = Run(adapter, dataset, params, run_dir, resume=resume, progress=progress, on_record=on_record, stop=stop)
    try:
        for note in adapter.notes:
            progress.note(note)
        if not run.state.finished:
            _learn(run)
        return _result(run)
    except KeyboardInterrupt:
        raise run.cancelled() from None
    finally:
        run.stream.close()


def _enough(dataset: Dataset) -> None:
    if not dataset.events["train"]:
        raise DataError("there are no events to train on: the cuts or params.split leave none")
    if dataset.task == "classification" and len(dataset.classes) < 2:
        raise DataError(f"there is one class only ({', '.join(dataset.classes)}): a classification needs two or more")


def _learn(run: Run) -> None:
    adapter = run.adapter
    if isinstance(adapter, Streaming):
        train_streaming(run, adapter)
    elif isinstance(adapter, Rounds):
        adapter.boost(run)
    elif isinstance(adapter, Whole):
        train_whole(run, adapter)
    else:
        raise TypeError(f"{type(adapter).__name__} does not say how it learns")


def _result(run: Run) -> Result:
    samples: dict[Split, Sample] = {}
    figures: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        sample, loss = run.evaluate(split, TRAIN_SAMPLE if split == "train" else None)
        samples[split] = sample
        figures[split] = run.summary(sample) | {"loss": loss} if len(sample) else {"events": 0}
    state = run.state
    best = state.best_epoch if state.best_loss is not None else None
    return Result(run.adapter, state.history, figures, samples, state.epoch, best, state.trained, run.seconds)
