"""The loop for models that learn batch by batch, in both procedures."""

from __future__ import annotations

import numpy as np

from mlaas.console import Stage
from mlaas.data.chunks import Chunk
from mlaas.training.adapter import Streaming, framework_errors
from mlaas.training.run import Run


def train_streaming(run: Run, adapter: Streaming) -> None:
    """Train from run.state's position to the end, then leave the model (the best one, with early stopping) in the adapter."""
    run.need_validation()
    total = run.dataset.events["train"] * run.params.epochs
    with run.progress.stage("training", total) as stage:
        if run.state.trained:
            stage.advance(run.state.trained)
        if run.params.procedure == "passes":
            _passes(run, adapter, stage)
        else:
            _chunks(run, adapter, stage)
    if run.best is not None:
        adapter.restore(run.best)
        run.progress.note(f"kept the model of evaluation {run.state.best_epoch} (validation loss {run.state.best_loss:.5g})")
    run.save(finished=True)


def _passes(run: Run, adapter: Streaming, stage: Stage) -> None:
    state = run.state
    while state.epoch < run.params.epochs:
        for chunk in run.training_chunks(state.epoch, state.chunk):
            _learn(run, adapter, chunk, stage)
            state.chunk += 1
            run.boundary()
        stop = _validate(run, adapter, "epoch")
        state.epoch, state.chunk, state.loss, state.events = state.epoch + 1, 0, 0.0, 0
        if stop:
            _say_stopped(run, f"epoch {state.epoch}")
            return
        run.save()


def _chunks(run: Run, adapter: Streaming, stage: Stage) -> None:
    """Every chunk `epochs` times; validated whenever at least as many events were learnt from as validation holds, so that it costs less than the
    training.
    """
    state = run.state
    stop = False
    for chunk in run.training_chunks(0, state.chunk):
        for repetition in range(run.params.epochs):
            _learn(run, adapter, _reordered(run, chunk, repetition), stage)
            run.check()
        state.chunk += 1
        if state.since >= max(run.dataset.events["validation"], 1):
            stop = _validate(run, adapter, "chunk")
            state.since, state.loss, state.events = 0, 0.0, 0
        if stop:
            _say_stopped(run, f"chunk {state.chunk}")
            break
        run.boundary()
    if state.since:
        _validate(run, adapter, "chunk")
        state.since = 0
    state.epoch = run.params.epochs


def _reordered(run: Run, chunk: Chunk, repetition: int) -> Chunk:
    """With params.shuffle each repetition of a chunk has its own order, the same after a resume."""
    if not run.params.shuffle or not repetition:
        return chunk
    order = np.random.default_rng([run.params.seed, run.state.chunk, repetition]).permutation(len(chunk))
    return Chunk(chunk.x, chunk.y, chunk.weight, chunk.mask, order)


def _learn(run: Run, adapter: Streaming, chunk: Chunk, stage: Stage) -> None:
    if len(chunk):
        with framework_errors("training"):
            loss = adapter.learn(chunk, run.check)
        run.learnt(stage, chunk, loss)


def _validate(run: Run, adapter: Streaming, kind: str) -> bool:
    """Validate and record; returns whether early stopping says to stop."""
    state = run.state
    rate = run.rate()
    figures = run.validated()
    record = run.record(kind, loss=state.loss / max(state.events, 1), events_per_s=rate, **figures)
    run.progress.note(_line(record))
    adapter.end_epoch(figures.get("val_loss"))
    stop = run.improved(figures.get("val_loss"), adapter.weights)
    run.restart_clock()
    return stop


def _say_stopped(run: Run, where: str) -> None:
    run.progress.note(f"stopped early after {where}: the validation loss has not improved {run.patience} times")


def _line(record: dict[str, object]) -> str:
    shown = [
        f"{name} {record[name]:.4f}" for name in ("loss", "val_loss", "val_auc", "val_accuracy", "val_r2") if isinstance(record.get(name), float)
    ]
    place = record["chunk"] if record["kind"] == "chunk" else record["epoch"]
    return f"{record['kind']} {place}: {', '.join(shown)}, {record['events_per_s']:.0f} events/s"
