"""XGBoost estimators: chunks are streamed into a quantised matrix (one byte per value or so), and trees are added round by round.

The number of rounds is the estimator's `n_estimators`; params.epochs and batch_size do not apply. In the procedure `chunks`, params.epochs rounds
are added on each chunk in turn. XGBoost refuses negative weights; see params.negative_weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import Chunk
from mlaas.errors import ModelError, ResourceError, WorkflowError
from mlaas.models.scores import Output
from mlaas.training.adapter import Mask, Matrix, Problem, Rounds, framework_errors
from mlaas.training.resources import gpu_present
from mlaas.training.run import Run
from mlaas.training.xgbparts import MAXIMISE, Validation, custom, last, streams, training_matrix
from mlaas.workflow import Params

CHECKPOINT_ROUNDS = 50


@dataclass
class XGBoostAdapter(Rounds):
    """An XGBoost estimator; see `adapt_xgboost`. settings: the parameters of its booster. rounds: how many to add."""

    framework = "xgboost"
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: int = 100
    booster: Any = None

    def raw(self, x: Matrix, mask: Mask | None) -> npt.NDArray[Any]:
        if self.output == "classes":
            return np.asarray(self.model.predict_proba(x))
        kind = "margin" if self.output in {"logit", "logits"} else "value"
        return np.asarray(self.model.get_booster().inplace_predict(x, predict_type=kind, missing=self.model.missing))

    def dump(self) -> bytes:
        return bytes(self.booster.save_raw("ubj"))

    def load(self, data: bytes) -> None:
        import xgboost

        self.booster = xgboost.Booster(self.settings)
        self.booster.load_model(bytearray(data))
        self._install()

    def _install(self) -> None:
        """Put the booster into the estimator, so that it can be used as if it had been fitted."""
        self.booster.set_param({"device": "cpu"})
        self.model.load_model(bytearray(self.booster.save_raw("ubj")))

    def boost(self, run: Run) -> None:
        run.progress.note(_how(self, run))
        patience = getattr(self.model, "early_stopping_rounds", None)
        run.patience = int(patience or run.params.early_stopping)
        run.need_validation()
        if run.params.procedure == "passes":
            self._all_rounds(run)
        else:
            self._chunk_by_chunk(run)
        self._keep_best(run)
        self._install()
        run.save(finished=True)

    def _all_rounds(self, run: Run) -> None:
        left = self.rounds - run.state.epoch
        with run.progress.stage("reading and quantising the training data", None):
            matrix = training_matrix(run, self.settings, self.model.missing, type(self.model).__name__)
            validation = Validation(self, run, self.settings, matrix)
        with run.progress.stage("boosting", self.rounds, "rounds") as stage:
            stage.advance(run.state.epoch)
            follow = _follower(self, run, validation, stage.advance)
            if left > 0:
                self._train(matrix, left, [(matrix, "train"), *validation.pairs], [follow, *(self.model.callbacks or [])])

    def _train(self, matrix: Any, rounds: int, pairs: list[tuple[Any, str]], callbacks: list[Any]) -> None:
        import xgboost

        objective, metric = custom(self.model)
        more = {"obj": objective, "custom_metric": metric, "xgb_model": self.booster, "callbacks": callbacks}
        with framework_errors("XGBoost"):
            self.booster = xgboost.train(self.settings, matrix, rounds, evals=pairs, verbose_eval=False, **more)

    def _chunk_by_chunk(self, run: Run) -> None:
        state, stop = run.state, False
        with run.progress.stage("training", run.dataset.events["train"]) as stage:
            stage.advance(state.trained)
            for chunk in run.training_chunks(0, state.chunk):
                if len(chunk):
                    run.learnt(stage, chunk, self._chunk_learnt(chunk, run.params.epochs))
                state.chunk += 1
                if state.since >= max(run.dataset.events["validation"], 1):
                    stop = self._chunk_validated(run)
                if stop:
                    break
                run.boundary()
            if state.since and not stop:
                self._chunk_validated(run)
        state.epoch = self.booster.num_boosted_rounds()

    def _chunk_learnt(self, chunk: Chunk, rounds: int) -> float:
        """Add rounds on one chunk; returns the training loss after the last."""
        logs: dict[str, Any] = {}
        matrix = self._chunk_matrix(chunk)
        self._train(matrix, rounds, [(matrix, "train")], [_logger(logs)])
        return last(logs, "train")[1]

    def _chunk_matrix(self, chunk: Chunk) -> Any:
        import xgboost

        if streams(self.settings):
            return xgboost.QuantileDMatrix(chunk.x, chunk.y, weight=chunk.weight, missing=self.model.missing, max_bin=self.settings.get("max_bin"))
        return xgboost.DMatrix(chunk.x, chunk.y, weight=chunk.weight, missing=self.model.missing)

    def _chunk_validated(self, run: Run) -> bool:
        state = run.state
        self._install()
        run.record("chunk", loss=state.loss / max(state.events, 1), **run.validated())
        state.since, state.loss, state.events = 0, 0.0, 0
        run.restart_clock()
        return run.improved(state.history[-1].get("val_loss"), self.dump)

    def _keep_best(self, run: Run) -> None:
        import xgboost

        if run.best is not None:
            self.booster = xgboost.Booster(self.settings)
            self.booster.load_model(bytearray(run.best))
        elif run.patience and run.state.best_epoch:
            self.booster = self.booster[: run.state.best_epoch]
        if run.patience and run.state.best_epoch:
            run.progress.note(f"kept the model of {'round' if run.params.procedure == 'passes' else 'validation'} {run.state.best_epoch}")

    @property
    def sliceable(self) -> bool:
        """Whether the first rounds of a booster are what it was then: true for plain trees (dart rescales earlier trees, gblinear has none)."""
        return (self.settings.get("booster") or "gbtree") == "gbtree"


def _follower(adapter: XGBoostAdapter, run: Run, validation: Validation, advance: Callable[[int], None]) -> Any:
    import xgboost

    class Follow(xgboost.callback.TrainingCallback):
        """Records every round, stops early, and writes checkpoints."""

        def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, Any]) -> bool:
            state = run.state
            adapter.booster = model
            name, loss = last(evals_log, "train")
            state.trained += run.dataset.events["train"]
            rate = run.rate()
            figures = validation.figures(model, evals_log)
            run.record("round", loss=loss, metric=name, events_per_s=rate, **figures)
            state.epoch += 1
            advance(1)
            value = figures.get("val_loss")
            if value is not None and name.partition("@")[0] in MAXIMISE and not run.dataset.negative:
                value = -value
            stop = run.improved(value, (lambda: None) if adapter.sliceable else adapter.dump)
            run.restart_clock()
            if stop:
                run.progress.note(f"stopped early after round {state.epoch}: no improvement for {run.patience} rounds")
                return True
            run.boundary(due=state.epoch % CHECKPOINT_ROUNDS == 0)
            return False

    return Follow()


def _logger(logs: dict[str, Any]) -> Any:
    import xgboost

    class Log(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, Any]) -> bool:
            logs.update(evals_log)
            return False

    return Log()


def _how(adapter: XGBoostAdapter, run: Run) -> str:
    name = type(adapter.model).__name__
    if run.params.procedure == "chunks":
        return f"{name}: {run.params.epochs} boosting rounds on each chunk in turn (params.epochs; n_estimators does not apply)"
    return f"{name}: {adapter.rounds} boosting rounds (n_estimators) over all data; params.epochs and batch_size do not apply"


def adapt_xgboost(model: Any, problem: Problem, params: Params) -> XGBoostAdapter:
    """Check an XGBoost estimator against the problem. Raises ModelError, WorkflowError (negative weights), ResourceError (no GPU)."""
    import xgboost

    name = type(model).__name__
    if not isinstance(model, xgboost.XGBModel) or isinstance(model, xgboost.XGBRanker):
        raise ModelError(f"model.py returned XGBoost's {name}: return an XGBClassifier or an XGBRegressor")
    if problem.negative and params.negative_weights == "keep":
        raise WorkflowError("params.negative_weights: XGBoost refuses negative event weights; set abs or zero")
    settings = {key: value for key, value in model.get_xgb_params().items() if value is not None and not callable(value)}
    settings.setdefault("seed", params.seed)
    settings |= _objective(model, problem, name)
    settings |= _device(settings, params)
    return XGBoostAdapter(model, problem, params, _output(model, settings, problem), False, [], settings, int(model.get_num_boosting_rounds()))


def _objective(model: Any, problem: Problem, name: str) -> dict[str, Any]:
    import xgboost

    given = model.objective
    if problem.task == "regression":
        if isinstance(model, xgboost.XGBClassifier):
            raise ModelError(f"{name} is no regressor, but the labels are numbers: return an XGBRegressor, or set params.task to classification")
        return {}
    classifier = isinstance(model, xgboost.XGBClassifier)
    if not classifier and not str(given).startswith(("binary:", "multi:")):
        raise ModelError(f"{name} is no classifier, but the labels are classes: return an XGBClassifier, or set params.task to regression")
    if problem.outputs == 2:
        return {} if callable(given) or str(given).startswith("binary:") else {"objective": "binary:logistic"}
    return {"num_class": problem.outputs} | ({} if callable(given) else {"objective": "multi:softprob"})


def _device(settings: dict[str, Any], params: Params) -> dict[str, Any]:
    import xgboost

    if params.device == "cpu":
        return {"device": "cpu"}
    usable = gpu_present() and bool(xgboost.build_info().get("USE_CUDA"))
    if params.device == "gpu" and not usable:
        raise ResourceError("params.device is gpu, but XGBoost sees no GPU on this machine; use auto or cpu")
    return {"device": "cuda"} if usable and "device" not in settings else {}


def _output(model: Any, settings: dict[str, Any], problem: Problem) -> Output:
    import xgboost

    if problem.task == "regression":
        return "value"
    if callable(model.objective) or settings.get("objective") == "binary:logitraw":
        return "logit" if problem.outputs == 2 else "logits"
    return "classes" if isinstance(model, xgboost.XGBClassifier) or problem.outputs > 2 else "probability"
