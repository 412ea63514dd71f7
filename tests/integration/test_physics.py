"""The physics that must come out: streamed trainings are as good as those by hand on the whole matrix, and weights mean what they should."""

from __future__ import annotations

import json
import math
from pathlib import Path
from runpy import run_path

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest
import uproot
from sklearn.metrics import roc_auc_score

from mlaas import pipeline
from mlaas.data.split import split_codes
from mlaas.models.predict import Predictor
from mlaas.workflow import from_flags
from tests.integration.jobs import TREE, done, toys, write_job, write_root

EVENTS = 3000  # per process
BRANCHES = ["ht", "mbb", "mva", "met", "nBJets", "jet_pt", "jet_btag", "lep_pt"]
DEMO = {"branch": "events", "selected_branches": BRANCHES, "batch_size": 128, "split": [0.1, 0.3], "shuffle": True, "chunk_size": 700}

KERAS = """\
import keras
def model(idim):
    net = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(24, activation="relu"), keras.layers.Dense(1, activation="sigmoid")])
    net.compile(optimizer=keras.optimizers.Adam(3e-3), loss="binary_crossentropy")
    return net
"""
XGBOOST = """\
import xgboost
def model(idim):
    return xgboost.XGBClassifier(n_estimators=60, max_depth=3, learning_rate=0.15, n_jobs=1, random_state=1)
"""

Matrix = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The demo's signal and background, with lists."""
    from mlaas.demo.generate import write_pair

    folder = tmp_path_factory.mktemp("demo")
    write_pair(folder, 2 * EVENTS, profile="seed", basket=800)
    return folder


def by_hand(files: list[Path]) -> tuple[Matrix, npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The whole matrix made with uproot and awkward alone: x (n, width), y (n,), split (n,): 0 train, 1 validation, 2 test."""
    events = [uproot.open(f"{path}:events").arrays(BRANCHES) for path in files]
    joined = ak.concatenate(events)
    flat = sorted(name for name in BRANCHES if joined[name].ndim == 1)
    columns = [ak.to_numpy(joined[name]).astype(np.float64)[:, None] for name in flat]
    for name in sorted(name for name in BRANCHES if joined[name].ndim == 2):
        padded = ak.pad_none(joined[name], int(ak.max(ak.num(joined[name]))), axis=1)
        columns.append(ak.to_numpy(ak.fill_none(padded, np.nan)).astype(np.float64))
    for column in columns:
        low, high = np.nanmin(column), np.nanmax(column)
        column -= low
        column /= high - low
    x = np.nan_to_num(np.concatenate(columns, axis=1), nan=0.0).astype(np.float32)
    y = np.repeat([1, 0], [len(part) for part in events])
    codes = [split_codes(np.arange(len(part)), number, 1, (0.1, 0.3)) for number, part in enumerate(events)]
    return x, y, np.concatenate(codes)


def auc_error(auc: float, signal: int, background: int) -> float:
    """The standard error of an AUC: J. A. Hanley and B. J. McNeil, Radiology 143 (1982) 29, equation 2."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (signal - 1) * (q1 - auc**2) + (background - 1) * (q2 - auc**2)
    return math.sqrt(variance / (signal * background))


def streamed(folder: Path, files: list[Path], model: str, **params) -> tuple[Path, dict]:
    flags = write_job(folder, files, [1, 0], model, {**DEMO, **params})
    done("workflow", *flags, f"--fout={folder / 'out'}")
    return folder / "out", json.loads((folder / "out" / "metrics.json").read_text())["metrics"]


class TestStreamedEqualsWhole:
    def test_the_matrix_is_that_of_uproot_and_awkward(self, demo, tmp_path):
        """Every number of it, and the split of every event."""
        files = [demo / "signal.root", demo / "background.root"]
        x, y, split = by_hand(files)
        flags = write_job(tmp_path, files, [1, 0], "hist", {**DEMO, "chunk_size": -1, "shuffle": False})
        dataset = pipeline.prepare(from_flags(**dict(flag[2:].split("=", 1) for flag in flags))).dataset
        for code, name in enumerate(("train", "validation", "test")):
            (chunk,) = dataset.chunks(name)
            np.testing.assert_allclose(chunk.x, x[split == code], atol=1e-6)
            np.testing.assert_array_equal(chunk.y, y[split == code])

    def test_keras(self, demo, tmp_path):
        import keras

        files = [demo / "signal.root", demo / "background.root"]
        bundle, figures = streamed(tmp_path, files, KERAS, epochs=8)
        x, y, split = by_hand(files)
        keras.utils.set_random_seed(1)
        net = run_path(str(tmp_path / "model.py"))["model"](x.shape[1])
        net.fit(x[split == 0], y[split == 0], batch_size=128, epochs=8, shuffle=True, verbose=0)
        self.compare(bundle, figures, x, y, split, net.predict(x[split == 2], verbose=0)[:, 0])

    def test_xgboost(self, demo, tmp_path):
        files = [demo / "signal.root", demo / "background.root"]
        bundle, figures = streamed(tmp_path, files, XGBOOST)
        x, y, split = by_hand(files)
        trees = run_path(str(tmp_path / "model.py"))["model"](x.shape[1]).fit(x[split == 0], y[split == 0])
        self.compare(bundle, figures, x, y, split, trees.predict_proba(x[split == 2])[:, 1])

    def compare(self, bundle: Path, figures: dict, x: Matrix, y, split, scores) -> None:
        """The AUC agrees within its error band; the figure in the bundle is that of its scores."""
        test = y[split == 2]
        hand = float(roc_auc_score(test, scores))
        error = auc_error(hand, int(test.sum()), int(len(test) - test.sum()))
        assert hand > 0.65
        assert figures["test"]["events"] == len(test)
        assert figures["test"]["auc_error"] == pytest.approx(error, rel=0.2)
        assert abs(figures["test"]["auc"] - hand) < error  # the same events: far better than independent samples would
        own = Predictor(bundle).engine.predict(x[split == 2], None)
        assert float(roc_auc_score(test, own)) == pytest.approx(figures["test"]["auc"], abs=1e-4)


def weighted(folder: Path, model: str, files: list[Path], weight: str = "w", **params) -> tuple[npt.NDArray[np.float32], dict]:
    """Train with a weight; returns the scores of fixed events, and the figures."""
    params = {"branch": TREE, "selected_branches": "mva,met,partonPt", "weight": weight, "split": [0.1, 0.3], "epochs": 4, **params}
    flags = write_job(folder, files, [1, 0], model, params)
    done("workflow", *flags, f"--fout={folder / 'out'}")
    probe = {"mva": np.linspace(-2, 3, 50), "met": np.linspace(0, 200, 50), "partonPt": [[200.0 + i] * (i % 4) for i in range(50)]}
    return Predictor(folder / "out").predict(probe), json.loads((folder / "out" / "metrics.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Pairs of files: `all` holds events of weight 0 among others, `some` holds the others only; `w1000` is 1000 times `w`."""
    folder = tmp_path_factory.mktemp("weights")
    for label in (1, 0):
        events = toys(1200, label)
        rng = np.random.default_rng(label)
        events["w"] = rng.uniform(0.5, 1.5, 1200) * (rng.random(1200) < 0.6)
        events["w1000"] = events["w"] * 1000
        events["mva"] = np.where(events["w"] == 0, -events["mva"], events["mva"]).astype(np.float32)  # they would mislead
        write_root(folder / f"all{label}.root", events)
        keep = events["w"] != 0
        write_root(folder / f"some{label}.root", {name: values[keep] for name, values in events.items()})
    return folder


MODELS = {
    "mlp": "mlp",
    "hist": "hist",
    "xgboost": "xgboost",
    "torch": "torch",
    "keras": KERAS,
}


class TestWeights:
    @pytest.mark.parametrize("model", MODELS)
    def test_a_constant_factor_changes_nothing(self, weights, tmp_path, model):
        files = [weights / "all1.root", weights / "all0.root"]
        scores, figures = weighted(tmp_path / "one", MODELS[model], files)
        scaled, others = weighted(tmp_path / "many", MODELS[model], files, "w1000")
        np.testing.assert_allclose(scaled, scores, atol=1e-6)
        for split in ("train", "validation", "test"):
            for name in ("auc", "accuracy", "loss", "log_loss"):
                assert others[split][name] == pytest.approx(figures[split][name], rel=1e-5, abs=1e-6)

    def test_factors_of_files_are_weights_too(self, weights, tmp_path):
        files = [weights / "all1.root", weights / "all0.root"]
        by_files, _ = weighted(tmp_path / "files", "hist", files, "w", file_weights=[3.0, 0.5])
        by_expression, _ = weighted(tmp_path / "expression", "hist", files, "w*(0.5+2.5*(kind==1))")
        np.testing.assert_allclose(by_files, by_expression, atol=1e-6)

    @pytest.mark.parametrize("model", ["hist", "xgboost"])
    def test_weight_zero_is_left_out(self, weights, tmp_path, model):
        """Training and evaluation are those of files without the events."""
        # the split is by entry number, which differs between the files: train on all events
        some, figures = weighted(tmp_path / "some", model, [weights / "some1.root", weights / "some0.root"], split=0.0)
        every, others = weighted(tmp_path / "all", model, [weights / "all1.root", weights / "all0.root"], split=0.0)
        np.testing.assert_allclose(every, some, atol=1e-6)
        assert others["train"]["events"] == figures["train"]["events"]
        assert others["train"]["auc"] == pytest.approx(figures["train"]["auc"], abs=1e-6)

    def test_a_file_of_weight_zero_is_left_out(self, weights, tmp_path):
        files = [weights / "all1.root", weights / "all0.root"]
        two, _ = weighted(tmp_path / "two", "hist", files)
        flags_three = [*files, weights / "some0.root"]
        folder = tmp_path / "three"
        params = {"branch": TREE, "selected_branches": "mva,met,partonPt", "weight": "w", "split": [0.1, 0.3], "file_weights": [1, 1, 0]}
        done("workflow", *write_job(folder, flags_three, [1, 0, 0], "hist", params), f"--fout={folder / 'out'}")
        probe = {"mva": np.linspace(-2, 3, 50), "met": np.linspace(0, 200, 50), "partonPt": [[200.0 + i] * (i % 4) for i in range(50)]}
        np.testing.assert_allclose(Predictor(folder / "out").predict(probe), two, atol=1e-6)

    def test_they_do_something(self, weights, tmp_path):
        """The misleading events lower the AUC when they count."""
        files = [weights / "all1.root", weights / "all0.root"]
        _, figures = weighted(tmp_path / "with", "hist", files)
        _, others = weighted(tmp_path / "without", "hist", files, "")
        assert figures["test"]["auc"] > others["test"]["auc"] + 0.05

    def test_negative_weights_keep_their_sign_in_evaluation(self, tmp_path):
        files = []
        for label in (1, 0):
            events = toys(1500, label)
            events["w"] = np.where(np.random.default_rng(label).random(1500) < 0.15, -1.0, 1.0)
            files.append(write_root(tmp_path / f"{label}.root", events))
        found = {}
        for how in ("keep", "abs", "zero"):
            _, found[how] = weighted(tmp_path / how, "xgboost" if how != "keep" else "mlp", files, negative_weights=how, epochs=10)
        for figures in found.values():
            assert figures["test"]["weight"] < 0.8 * figures["test"]["events"]
            assert figures["test"]["auc"] > 0.65
