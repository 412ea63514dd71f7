"""The one fit of an estimator that needs all training data at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.errors import ResourceError
from mlaas.training.adapter import Whole, framework_errors
from mlaas.training.resources import gigabytes, memory_limit
from mlaas.training.run import Run


def train_whole(run: Run, adapter: Whole) -> None:
    """Gather the training data within the memory limit, fit once, validate and record. Raises ResourceError before anything is read."""
    name = type(adapter.model).__name__
    run.progress.note(f"{name} cannot learn in parts: it is fitted once to all training data; params.epochs, batch_size and procedure do not apply")
    check_memory(run, name, adapter.bytes_needed(run.dataset.events["train"]))
    x, y, weight = gather(run)
    run.check()
    with run.progress.stage(f"fitting {name}", None, ""), framework_errors(f"fitting {name}"):
        adapter.fit(x, y, weight)
    run.state.trained = len(x)
    del x, y, weight
    rate = run.rate()
    train_loss = run.evaluate("train", limit=50_000)[1]
    run.record("fit", loss=train_loss, events_per_s=rate, **run.validated())
    run.state.epoch = 1
    run.save(finished=True)


def check_memory(run: Run, name: str, needed: int) -> None:
    """Raise ResourceError when `needed` bytes for all training events are above the limit."""
    events, width = run.dataset.events["train"], run.dataset.width
    limit = memory_limit(run.params)
    if needed > limit:
        possible = max(int(events * limit / needed), 1)
        raise ResourceError(
            f"{name} needs all training data at once: {events} events x {width} columns take about {gigabytes(needed)}, the limit is "
            f"{gigabytes(limit)}; read fewer events (params.nevts, about {possible} in training), select fewer branches, raise params.memory_limit, "
            "or take a model that learns in parts"
        )


def gather(run: Run) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.float32]]:
    """All training events in one matrix: x (n, width) float32, y (n,), weight (n,) float32."""
    events = run.dataset.events["train"]
    x = np.empty((events, run.dataset.width), np.float32)
    y = np.empty(events, np.int64 if run.dataset.task == "classification" else np.float32)
    weight = np.empty(events, np.float32)
    filled = 0
    with run.progress.stage("collecting the training data", events) as stage:
        for chunk in run.training_chunks(0):
            rows = slice(filled, filled + len(chunk))
            np.take(chunk.x, chunk.order, axis=0, out=x[rows])
            y[rows], weight[rows] = chunk.y[chunk.order], chunk.weight[chunk.order]
            filled += len(chunk)
            stage.advance(len(chunk))
            run.check()
    return x[:filled], y[:filled], weight[:filled]
