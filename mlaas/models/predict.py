"""Predictions from raw events: the bundle alone turns named branches into scores."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlaas.data.columns import Columns
from mlaas.data.features import Features
from mlaas.errors import BundleError, MLaaSError
from mlaas.models.bundle import Bundle, read_bundle
from mlaas.models.engine import load_engine
from mlaas.models.events import Events, to_columns
from mlaas.models.scores import Scores

FEATURES = "features.json"
BATCH = 8192  # events: bounds the feature matrix of a large request


class Predictor:
    """A bundle opened for raw events; `predict` may be called from several threads at once.

    engine, trust, threads: as in `load_engine`. Raises BundleError (damaged, needs trust, no features.json).
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        engine: Literal["auto", "onnx", "native"] = "auto",
        trust: bool = False,
        threads: int = 1,
        verify: bool = True,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle), verify=verify)
        document = self.bundle.json(FEATURES)
        try:
            self.features = Features.from_json(document)
        except MLaaSError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{FEATURES} of the bundle {self.bundle.path} is damaged: {error}") from error
        if self.features.width != self.bundle.manifest.width:
            raise BundleError(f"{FEATURES} gives {self.features.width} columns, but the model takes {self.bundle.manifest.width}")
        self.engine = load_engine(self.bundle, engine, trust, threads)

    def predict(self, events: Events) -> Scores:
        """Canonical scores of raw events: float32 (n,), or (n, K) for more than two classes.

        events: what `events.to_columns` takes. Raises DataError naming the branch that is missing or wrong.
        """
        columns = to_columns(events, self.features.branches)
        if columns.n <= BATCH:
            return self._scores(columns)
        import numpy as np

        return np.concatenate([self._scores(columns.slice(start, start + BATCH)) for start in range(0, columns.n, BATCH)])

    def _scores(self, columns: Columns) -> Scores:
        x, mask = self.features.vectorise(columns)
        return self.engine.predict(x, mask)
