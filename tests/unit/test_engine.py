"""Engines and predictors: shapes, batches, threads, refusals, and raw events turned into columns."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import awkward as ak
import numpy as np
import pytest

from mlaas.data.columns import Columns, Jagged
from mlaas.data.features import Features
from mlaas.data.files import Branch
from mlaas.data.layout import Layout, Slot
from mlaas.data.preproc import Preproc
from mlaas.errors import BundleError, DataError, MissingExtraError
from mlaas.models import engine as engines
from mlaas.models.bundle import read_bundle, write_bundle
from mlaas.models.engine import load_engine
from mlaas.models.events import to_columns
from mlaas.models.predict import Predictor
from tests.support.trained import MASK, PADDED, WIDTH, X, logistic, trained


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "tth"
    write_bundle(folder, logistic(), {})
    return read_bundle(folder)


@pytest.mark.parametrize("kind", ["onnx", "native"])
def test_shapes(bundle, kind):
    engine = load_engine(bundle, kind)
    assert engine.predict(X.astype(np.float64)).shape == (len(X),)
    assert engine.predict(X.tolist()).dtype == np.float32
    np.testing.assert_array_equal(engine.predict(np.asfortranarray(X)), engine.predict(X))
    for wrong, message in [
        (X[:, :3], r"takes \(n, 6\)"),
        (X[0], r"takes \(n, 6\)"),
        ([["a"] * 6], "matrix of numbers"),
        ([[1], [1, 2]], "matrix of numbers"),
    ]:
        with pytest.raises(DataError, match=message):
            engine.predict(wrong)


@pytest.mark.parametrize("kind", ["onnx", "native"])
def test_batches_are_bounded(bundle, kind, monkeypatch):
    whole = load_engine(bundle, kind).predict(X)
    seen = []
    engine = load_engine(bundle, kind)
    object.__setattr__(engine, "run", lambda x, mask, run=engine.run: seen.append(len(x)) or run(x, mask))
    monkeypatch.setattr(engines, "BATCH_ROWS", 64)
    np.testing.assert_allclose(engine.predict(X), whole, atol=1e-7)
    assert seen == [64, 64, 64, 64, 44]


@pytest.mark.parametrize("kind", ["onnx", "native"])
def test_threads_share_an_engine(bundle, kind):
    engine = load_engine(bundle, kind)
    wanted = engine.predict(X)
    parts = [X[start::7] for start in range(7)] * 10
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.predict, parts))
    for number, scores in enumerate(found):
        np.testing.assert_allclose(scores, wanted[number % 7 :: 7], atol=1e-7)


def test_unknown_engine(bundle):
    with pytest.raises(BundleError, match="not one of auto, onnx, native"):
        load_engine(bundle, "tensorrt")


def test_mask_is_asked_for(tmp_path):
    import torch

    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2 * WIDTH, 1)

        def forward(self, x, mask):
            return self.layer(torch.cat([x, mask], 1))

    module = Masked()
    with torch.no_grad():
        raw = module(torch.from_numpy(PADDED), torch.from_numpy(MASK)).numpy()
    model = trained(module, "torch", "logit", "binary", raw, x=PADDED, mask=MASK > 0, wants_mask=True)
    write_bundle(tmp_path / "b", model, {})
    engine = load_engine(tmp_path / "b")
    np.testing.assert_allclose(engine.predict(PADDED, MASK > 0), model.scores, atol=1e-6)
    assert np.abs(engine.predict(PADDED, MASK * 0) - model.scores).max() > 1e-3
    with pytest.raises(DataError, match="takes a mask"):
        engine.predict(PADDED)
    with pytest.raises(DataError, match="the mask has 3 events"):
        engine.predict(PADDED, MASK[:3])


def test_damaged_onnx(bundle, tmp_path):
    for data in (b"", b"not a graph", (bundle.path / "model.onnx").read_bytes()[:-40]):
        with pytest.raises(BundleError, match=r"model\.onnx"):
            engines.onnx_engine(data, bundle.manifest)


def test_the_onnx_form_needs_no_framework(bundle):
    """Neither loading nor predicting imports the library that the model was trained with, or any other heavy one."""
    code = """
        import sys
        import numpy as np
        from mlaas.models.engine import load_engine
        load_engine(sys.argv[1]).predict(np.zeros((2, 6)))
        print(sorted({"tensorflow", "keras", "torch", "xgboost", "sklearn", "skops", "skl2onnx"}.intersection(sys.modules)))
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code), bundle.path], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("framework", "package", "extra"), [("keras", "keras", "keras"), ("torch", "torch", "torch"), ("xgboost", "xgboost", "xgboost")]
)
def test_a_missing_framework_is_named(bundle, monkeypatch, framework, package, extra):
    form = {"keras": "model.keras", "torch": "model.pt2", "xgboost": "model.ubj"}[framework]
    native = bundle.manifest.native.model_copy(update={"form": form})
    manifest = bundle.manifest.model_copy(update={"framework": framework, "native": native})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'mlaas\[{extra}\]'"):
        engines.native_engine(bundle.path, manifest, trust=True)


# --- raw events -----------------------------------------------------------------------------------------------------------------------------

BRANCHES = {
    "met": Branch("met", np.dtype("f4"), "flat"),
    "nJet": Branch("nJet", np.dtype("i4"), "flat"),
    "trigger": Branch("trigger", np.dtype("?"), "flat"),
    "jet_pt": Branch("jet_pt", np.dtype("f4"), "jagged", "nJet"),
    "jet_id": Branch("jet_id", np.dtype("u1"), "jagged", "nJet"),
}
ROWS = [
    {"met": 20.5, "nJet": 2, "trigger": True, "jet_pt": [50.1, 30.0], "jet_id": [1, 2], "extra": "ignored"},
    {"jet_id": [], "jet_pt": [], "trigger": 0, "nJet": 0, "met": None},
    {"met": 3, "nJet": 1.0, "trigger": False, "jet_pt": (40,), "jet_id": np.array([7])},
]


def same(one: Columns, other: Columns) -> None:
    assert one.n == other.n
    assert list(one) == list(other)
    for name in one:
        a, b = one[name], other[name]
        if isinstance(a, Jagged):
            assert isinstance(b, Jagged)
            assert a.lists() == b.lists()
            a, b = a.content, b.content
        else:
            np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_rows():
    columns = to_columns(ROWS, BRANCHES)
    assert columns.n == 3
    assert list(columns) == list(BRANCHES)
    np.testing.assert_array_equal(columns["met"], np.array([20.5, np.nan, 3], np.float32))
    assert columns["met"].dtype == np.float32
    assert columns["nJet"].tolist() == [2, 0, 1]
    assert columns["nJet"].dtype == np.int32
    assert columns["trigger"].tolist() == [True, False, False]
    assert columns["jet_pt"].content.dtype == np.float32
    assert columns["jet_pt"].lists() == [[np.float32(50.1), 30], [], [40]]
    assert columns["jet_id"].offsets is columns["jet_pt"].offsets


def test_every_form_gives_the_same_columns():
    wanted = to_columns(ROWS, BRANCHES)
    by_name = {name: [row[name] for row in ROWS] for name in reversed(BRANCHES)}
    same(to_columns(by_name, BRANCHES), wanted)
    same(to_columns(wanted, BRANCHES), wanted)
    arrays = {name: wanted[name] for name in BRANCHES}
    same(to_columns(arrays, BRANCHES), wanted)
    records = ak.Array(
        {"met": wanted["met"], "nJet": wanted["nJet"], "trigger": wanted["trigger"], "jet_pt": wanted["jet_pt"].lists(), "jet_id": [[1, 2], [], [7]]}
    )
    same(to_columns(records, BRANCHES), wanted)
    same(to_columns({name: records[name] for name in BRANCHES}, BRANCHES), wanted)
    same(to_columns(ROWS[0], BRANCHES), to_columns(ROWS[:1], BRANCHES))
    same(to_columns(ROWS[1], BRANCHES), to_columns(ROWS[1:2], BRANCHES))
    tail = wanted.slice(1, 3)
    same(to_columns(tail, BRANCHES), to_columns(ROWS[1:], BRANCHES))
    only = {"jet_pt": BRANCHES["jet_pt"]}
    assert to_columns({"jet_pt": [1.5, 2.5]}, only)["jet_pt"].lists() == [[1.5, 2.5]]
    assert to_columns({"jet_pt": [[1.5], [2.5]]}, only)["jet_pt"].lists() == [[1.5], [2.5]]
    assert to_columns({"jet_pt": np.ones((2, 3))}, only)["jet_pt"].lists() == [[1, 1, 1]] * 2


def test_no_events():
    for events in ([], {name: [] for name in BRANCHES}):
        columns = to_columns(events, BRANCHES)
        assert columns.n == 0
        assert columns["met"].dtype == np.float32
        assert columns["jet_pt"].lists() == []


def changed(**values):
    return [{**ROWS[0], **values}, ROWS[2]]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            [{key: value for key, value in ROWS[0].items() if key != "jet_pt"} | {"jet_pT": []}],
            r"event 0 has no branch 'jet_pt' \(did you mean 'jet_pT'\?\)",
        ),
        ({"met": [1.0]}, "the events have no branch 'nJet'"),
        ("events", "must be a list of events"),
        (3, "must be a list of events"),
        ([1, 2], "event 0 must be a mapping"),
        ([ROWS[0], [1]], "event 1 must be a mapping"),
        (changed(met="20"), "'met' must hold numbers, not '20'"),
        (changed(met=[20.0]), "'met' is flat: it must have one number per event, not a list"),
        (changed(met={"a": 1}), "'met' must hold numbers"),
        (changed(nJet=2.5), r"'nJet' holds whole numbers \(int32\), not 2.5"),
        (changed(nJet=2**40), "'nJet' holds 1099511627776, but its type int32 goes from -2147483648 to 2147483647"),
        (changed(nJet=10**30), "'nJet'"),
        (changed(met=10**400), "too large"),
        (changed(jet_id=[1, -2]), "'jet_id' holds -2, but its type uint8 goes from 0 to 255"),
        (changed(trigger=2), "'trigger' holds 2, but its type bool goes from 0 to 1"),
        (changed(jet_pt=50.0), "event 0: the branch 'jet_pt' is jagged"),
        (changed(jet_pt="50"), "event 0: the branch 'jet_pt' is jagged"),
        (changed(jet_pt=[[50.0], [30.0]]), "'jet_pt' must"),
        (changed(jet_pt=[[50.0], [30.0, 1.0]]), "'jet_pt' must hold numbers, not lists"),
        (changed(jet_pt=["50", "30"]), "'jet_pt' must hold numbers, not '50'"),
        (changed(jet_pt=[1.0, "30"]), "'jet_pt' must hold numbers, not '30'"),
        (changed(jet_pt=[1.0]), "event 0: the branches 'jet_pt' and 'jet_id' must have lists of the same length"),
        ({**{name: [row[name] for row in ROWS] for name in BRANCHES}, "nJet": [1]}, "'nJet' has 1 events, but 'met' has 3"),
        ({**{name: [row[name] for row in ROWS] for name in BRANCHES}, "met": np.array(["a", "b", "c"])}, "'met' must hold numbers"),
        ({**{name: [row[name] for row in ROWS] for name in BRANCHES}, "met": np.ones((3, 2))}, "'met' is flat"),
    ],
)
def test_wrong_events(events, message):
    with pytest.raises(DataError, match=message):
        to_columns(events, BRANCHES)


def test_missing_values():
    columns = to_columns(changed(nJet=None, jet_pt=[None, 1.0]), BRANCHES)
    assert np.isnan(columns["nJet"][0])
    assert columns["nJet"][1] == 1
    assert np.isnan(columns["jet_pt"].content[0])
    assert to_columns([{"jet_pt": None}], {"jet_pt": BRANCHES["jet_pt"]})["jet_pt"].lists() == [[]]


def test_a_thousand_events_take_milliseconds():
    rng = np.random.default_rng(0)
    branches = {f"f{i}": Branch(f"f{i}", np.dtype("f4"), "flat") for i in range(22)}
    branches |= {f"j{i}": Branch(f"j{i}", np.dtype("f4"), "jagged", f"n{i // 8}") for i in range(52)}
    counts = {group: rng.integers(0, 8, 1000) for group in range(7)}
    rows = [
        {name: float(n) if branch.kind == "flat" else [0.5] * int(counts[int(branch.counter[1:])][n]) for name, branch in branches.items()}
        for n in range(1000)
    ]
    best = min(_seconds(lambda: to_columns(rows, branches)) for _ in range(5))
    assert best < 0.1  # 20 ms on one quiet core


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# --- predictors -----------------------------------------------------------------------------------------------------------------------------


RAW = {
    "met": Branch("met", np.dtype("f4"), "flat"),
    "nJet": Branch("nJet", np.dtype("i4"), "flat"),
    "jet_pt": Branch("jet_pt", np.dtype("f4"), "jagged"),
    "jet_eta": Branch("jet_eta", np.dtype("f8"), "jagged"),
}
FEATURES = Features(
    layout=Layout((Slot("met", "flat", 1, 0.0, 200.0), Slot("nJet2", "flat", 1, 0.0, 16.0), Slot("jet_pt", "jagged", 4, 20.0, 300.0))),
    preproc=Preproc.model_validate(
        {"new_branch": {"nJet2": {"def": "nJet**2", "type": "flat", "cut": "nJet2>1e9", "remove": "False", "keys_to_remove": ["nJet"]}}}
    ),
    wanted=("met", "nJet", "jet_pt"),
    sources=RAW,
    tree="Events",
)


def raw_events(n: int) -> tuple[list[dict], np.ndarray]:
    """Events, and the matrix that they are, worked out one number at a time."""
    rng = np.random.default_rng(11)
    rows, x = [], np.zeros((n, 6))
    for event in range(n):
        count = int(rng.integers(0, 5))
        met, jets = float(np.float32(rng.uniform(0, 200))), [float(np.float32(pt)) for pt in rng.uniform(20, 300, count)]
        rows.append({"jet_pt": jets, "unused": "text", "nJet": count, "met": met})
        x[event, :2] = met / 200, count**2 / 16
        x[event, 2 : 2 + count] = [(pt - 20) / 280 for pt in jets]
    rows[3]["met"] = None
    x[3, 0] = 0
    return rows, x.astype(np.float32)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor") / "tth"
    write_bundle(folder, logistic(), {"features.json": FEATURES.to_json()})
    return Predictor(folder)


def test_raw_events_give_the_scores_of_the_matrix(predictor, monkeypatch):
    rows, x = raw_events(50)
    wanted = predictor.engine.predict(x)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(predictor.predict(rows), wanted, rtol=0, atol=1e-6)
    by_name = {name: [row[name] for row in rows] for name in ("jet_pt", "met", "nJet")}
    np.testing.assert_allclose(predictor.predict(by_name), wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(predictor.predict(rows[7]), wanted[7:8], rtol=0, atol=1e-6)
    columns = to_columns(rows, predictor.features.branches)
    np.testing.assert_allclose(predictor.predict(columns.slice(5, 20)), wanted[5:20], rtol=0, atol=1e-6)
    monkeypatch.setattr("mlaas.models.predict.BATCH", 7)
    np.testing.assert_allclose(predictor.predict(rows), wanted, rtol=0, atol=1e-6)
    assert predictor.predict([]).shape == (0,)


def test_threads_share_a_predictor(predictor):
    rows, x = raw_events(200)
    wanted = predictor.engine.predict(x)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predictor.predict, [rows[start::5] for start in range(5)] * 4))
    for number, scores in enumerate(found):
        np.testing.assert_allclose(scores, wanted[number % 5 :: 5], rtol=0, atol=1e-6)


def test_the_predictor_names_what_is_missing(predictor):
    with pytest.raises(DataError, match=r"no branch 'nJet' \(did you mean 'njet'\?\)"):
        predictor.predict([{"met": 1.0, "njet": 1, "jet_pt": []}])


def test_damaged_features(tmp_path):
    write_bundle(tmp_path / "b", logistic(), {"features.json": {"format": 1}})
    with pytest.raises(BundleError, match=r"features\.json is damaged"):
        Predictor(tmp_path / "b")
    write_bundle(tmp_path / "c", logistic(), {})
    with pytest.raises(BundleError, match=r"has no features\.json"):
        Predictor(tmp_path / "c")
    narrow = dataclasses.replace(FEATURES, layout=Layout(FEATURES.layout.slots[:2]))
    write_bundle(tmp_path / "d", logistic(), {"features.json": narrow.to_json()})
    with pytest.raises(BundleError, match="gives 2 columns, but the model takes 6"):
        Predictor(tmp_path / "d")
