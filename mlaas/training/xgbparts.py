"""Data for XGBoost: chunks streamed into quantised matrices, validation, and the user's own objective and metric."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import Chunk
from mlaas.models.scores import canonical
from mlaas.training.adapter import Adapter
from mlaas.training.run import Run, Sample
from mlaas.training.whole import check_memory, gather

MAXIMISE = ("auc", "aucpr", "pre", "map", "ndcg")


def training_matrix(run: Run, settings: dict[str, Any], missing: float, name: str) -> Any:
    """The training events for XGBoost: quantised from the stream; whole, within the memory limit, for the methods that do not work on bins.

    A whole matrix is estimated at 20 bytes per value: float32, and XGBoost's copy with an index to each value, by rows and by columns.
    """
    if streams(settings):
        return quantised(run, lambda: run.training_chunks(0), settings, missing)
    import xgboost

    run.progress.note(f"{name}: tree_method {settings.get('tree_method')!r} works on all training data at once")
    check_memory(run, name, 20 * run.dataset.events["train"] * run.dataset.width)
    x, y, weight = gather(run)
    return xgboost.DMatrix(x, y, weight=weight if run.dataset.weighted else None, missing=missing)


def streams(settings: dict[str, Any]) -> bool:
    """Whether a booster with these settings works on quantised data."""
    return settings.get("tree_method") in (None, "auto", "hist") and settings.get("booster") != "gblinear"


def quantised(run: Run, chunks: Callable[[], Iterator[Chunk]], settings: dict[str, Any], missing: float, ref: Any = None) -> Any:
    """A QuantileDMatrix of streamed chunks, with the bins of `ref` when given; XGBoost asks for the chunks several times."""
    import xgboost

    class Feed(xgboost.DataIter):
        """Hands chunks to XGBoost, as often as it asks for them."""

        def __init__(self) -> None:
            super().__init__(release_data=False)
            self._chunks: Iterator[Chunk] = iter(())

        def next(self, input_data: Callable[..., Any]) -> bool:
            try:
                run.check()
                for chunk in self._chunks:
                    if len(chunk):
                        weight = {"weight": chunk.weight} if run.dataset.weighted else {}
                        input_data(data=chunk.x, label=chunk.y, **weight)
                        return True
            except KeyboardInterrupt:  # it would be lost in the C code that called this
                raise run.cancelled() from None
            return False

        def reset(self) -> None:
            self._chunks = chunks()

    return xgboost.QuantileDMatrix(Feed(), max_bin=settings.get("max_bin"), missing=missing, ref=ref)


class Validation:
    """The validation events, quantised with the training's bins. Their weights reach XGBoost without negative ones, our own figures with them."""

    def __init__(self, adapter: Adapter, run: Run, settings: dict[str, Any], train: Any) -> None:
        self._adapter, self._run = adapter, run
        self._labels: list[npt.NDArray[Any]] = []
        self._weights: list[npt.NDArray[np.float32]] = []
        self.pairs: list[tuple[Any, str]] = []
        if run.dataset.events["validation"]:
            self.matrix = self._matrix(settings, adapter.model.missing, train)
            self.pairs = [(self.matrix, "validation")]
            self.y, self.weight = np.concatenate(self._labels), np.concatenate(self._weights)

    def _matrix(self, settings: dict[str, Any], missing: float, train: Any) -> Any:
        if streams(settings):
            return quantised(self._run, self._chunks, settings, missing, train)
        import xgboost

        parts = [(chunk.x.copy(), chunk.y.copy(), chunk.weight) for chunk in self._chunks()]
        x, y, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        return xgboost.DMatrix(x, y, weight=weight if self._run.dataset.weighted else None, missing=missing)

    def _chunks(self) -> Iterator[Chunk]:
        self._labels.clear()
        self._weights.clear()
        for chunk in self._run.dataset.chunks("validation"):
            self._labels.append(chunk.y.copy())
            self._weights.append(chunk.weight.copy())
            yield Chunk(chunk.x, chunk.y, np.maximum(chunk.weight, 0), None, chunk.order)

    def figures(self, booster: Any, logs: dict[str, Any]) -> dict[str, Any]:
        """val_loss and val_ figures of the booster as it stands, from its cached predictions."""
        if not self.pairs:
            return {}
        output = self._adapter.output
        raw = booster.predict(self.matrix, output_margin=output in {"logit", "logits"})
        scores = canonical(raw, "probability" if output == "classes" and raw.ndim == 1 else output)
        loss = self._loss(scores) if self._run.dataset.negative else last(logs, "validation")[1]
        return {"val_loss": loss} | self._run.val_figures(Sample(scores, self.y, self.weight))

    def _loss(self, scores: npt.NDArray[np.float32]) -> float:
        chunk = Chunk(np.zeros((len(self.y), 0), np.float32), self.y, self.weight, None, np.arange(0))
        return self._adapter.plain_loss(chunk, scores)


def last(logs: dict[str, Any], name: str) -> tuple[str, float]:
    """The name and the newest value of the last metric (the one that XGBoost's own early stopping goes by)."""
    metric, values = list(logs[name].items())[-1]
    newest = values[-1]
    return metric, float(newest[0] if isinstance(newest, tuple) else newest)


def custom(model: Any) -> tuple[Any, Any]:
    """The estimator's own objective and metric, as xgboost.train wants them."""
    objective = _with_matrix(model.objective) if callable(model.objective) else None
    given = getattr(model, "eval_metric", None)
    metric = None
    if callable(given):
        inner = _with_matrix(given)

        def metric(predictions: Any, matrix: Any) -> tuple[str, float]:
            return getattr(given, "__name__", "metric"), float(inner(predictions, matrix))

    return objective, metric


def _with_matrix(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """Call a function of (labels, predictions[, weights]) with (predictions, matrix)."""
    takes_weight = "sample_weight" in inspect.signature(function).parameters

    def called(predictions: Any, matrix: Any) -> Any:
        weight = matrix.get_weight()
        more = {"sample_weight": weight} if takes_weight and weight.size else {}
        found = function(matrix.get_label(), predictions, **more)
        if not takes_weight and weight.size and isinstance(found, tuple):
            return tuple(part * weight.reshape(-1, *[1] * (part.ndim - 1)) for part in found)
        return found

    return called
