"""preproc.json: the published example, every fault of the original that is not repeated, and each bad input with its sentence."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mlaas.data.columns import Columns, Jagged
from mlaas.data.preproc import Preproc, plan
from mlaas.errors import DataError, WorkflowError
from mlaas.workflow import parse

PUBLISHED = """
{"new_branch": {"log_partonE": {"def": "log(partonE)", "type": "jagged",
                  "cut_1": ["log_partonE<6.31", "any"], "cut_2": ["log_partonE>5.85", "all"],
                  "remove": "False", "keys_to_remove": ["partonE"]},
                "nJets_square": {"def": "nJets**2", "type": "flat", "cut": "1<=nJets_square<=16",
                  "remove": "False", "keys_to_remove": ["nJets"]}},
 "flat_cut":   {"nLeptons": {"cut": "0<=nLeptons<=2", "remove": "False"}},
 "jagged_cut": {"partonPt": {"cut": ["partonPt>200", "all"], "remove": "False"}}}
"""
KINDS = {
    "nJets": "flat",
    "nLeptons": "flat",
    "met": "flat",
    "flag": "flat",
    "partonE": "jagged",
    "partonPt": "jagged",
    "a/b": "flat",
    "jet.pt": "jagged",
}


def events(n=400, seed=3):
    """Events with the branches of the published example; some lists are empty, some values NaN."""
    rng = np.random.default_rng(seed)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(rng.integers(0, 4, n), out=offsets[1:])
    energy = rng.uniform(300, 600, offsets[-1]).astype(np.float32)
    energy[rng.random(len(energy)) < 0.02] = np.nan
    data = {
        "nJets": rng.integers(0, 7, n).astype(np.int32),
        "nLeptons": rng.integers(0, 4, n).astype(np.uint8),
        "met": rng.exponential(50, n).astype(np.float32),
        "flag": rng.random(n) < 0.5,
        "partonE": Jagged(energy, offsets),
        "partonPt": Jagged(rng.uniform(150, 900, offsets[-1]).astype(np.float32), offsets),
        "a/b": rng.random(n),
        "jet.pt": Jagged(rng.random(offsets[-1]), offsets),
    }
    return Columns(n, data)


def planned(document, wanted=("nJets", "nLeptons", "met", "partonE", "partonPt")):
    return plan(parse({"files": ["f"], "labels": ["0"], "model": "m.py", "preproc": document}).preproc, KINDS, wanted)


def flat_cut(cut, name="nJets"):
    return {"flat_cut": {name: {"cut": cut}}}


def jagged_cut(cut, name="partonPt"):
    return {"jagged_cut": {name: {"cut": cut}}}


def new_branch(**entry):
    return {"new_branch": {"new": {("def" if key == "definition" else key): value for key, value in entry.items()}}}


# --- the published example ---


def test_the_published_example():
    columns = events()
    plan = planned(json.loads(PUBLISHED))
    assert plan.read == ("nJets", "nLeptons", "met", "partonE", "partonPt")
    assert plan.outputs == ("nLeptons", "met", "partonPt", "log_partonE", "nJets_square")
    assert dict(plan.kinds) == {"nLeptons": "flat", "met": "flat", "partonPt": "jagged", "log_partonE": "jagged", "nJets_square": "flat"}

    kept = [event for event in range(columns.n) if _passes(columns, event)]
    assert 10 < len(kept) < columns.n / 2
    assert np.flatnonzero(plan.keep(columns)).tolist() == kept
    out = plan.apply(columns)
    assert tuple(out) == plan.outputs
    assert out.n == len(kept)
    assert out["nJets_square"].tolist() == [int(columns["nJets"][event]) ** 2 for event in kept]
    for found, event in zip(out["log_partonE"].lists(), kept, strict=True):
        np.testing.assert_allclose(found, np.log(columns["partonE"].lists()[event]), rtol=1e-6)
    assert out["log_partonE"].content.dtype == np.float32
    assert out["log_partonE"].offsets is out["partonPt"].offsets


def _passes(columns, event):
    logs = [math.log(energy) for energy in columns["partonE"].lists()[event]]
    return (
        any(log < 6.31 for log in logs)
        and all(log > 5.85 for log in logs)
        and 1 <= int(columns["nJets"][event]) ** 2 <= 16
        and 0 <= columns["nLeptons"][event] <= 2
        and all(pt > 200 for pt in columns["partonPt"].lists()[event])
    )


def test_the_document_survives_json():
    preproc = Preproc.model_validate_json(PUBLISHED)
    written = preproc.model_dump(mode="json")
    assert written["flat_cut"] == {"nLeptons": {"cut": "0<=nLeptons<=2", "remove": False}}
    assert written["new_branch"]["log_partonE"]["cut_2"] == ["log_partonE>5.85", "all"]
    assert Preproc.model_validate(json.loads(json.dumps(written))) == preproc
    assert Preproc.model_validate(written).model_dump(mode="json") == written
    short = preproc.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert Preproc.model_validate(short) == preproc
    assert Preproc().model_dump(mode="json", exclude_defaults=True) == {}


def test_spellings_that_mean_the_same_are_written_the_same():
    spellings = [
        {"cut": "nJets>1", "cut_7": "nJets<9", "remove": "True"},
        {"cut_1": "nJets>1", "cut_2": "nJets<9", "remove": True},
        {"cut_10": "nJets<9", "cut_9": "nJets>1", "remove": "true"},
    ]
    written = {json.dumps(Preproc.model_validate({"flat_cut": {"nJets": entry}}).model_dump(mode="json"), sort_keys=True) for entry in spellings}
    assert len(written) == 1
    one = [Preproc.model_validate({"flat_cut": {"nJets": {name: "nJets>1"}}}).model_dump(mode="json") for name in ("cut", "cut_1", "cut_3")]
    assert one[0] == one[1] == one[2]


def test_the_json_schema_shows_the_published_form():
    schema = Preproc.model_json_schema()["$defs"]
    assert set(schema["NewBranch"]["properties"]) == {"def", "type", "cut", "remove", "keys_to_remove"}
    assert list(schema["FlatCut"]["patternProperties"]) == ["^cut_[0-9]+$"]
    assert schema["FlatCut"]["additionalProperties"] is False


@pytest.mark.parametrize("document", [{}, None, {"flat_cut": {}}, {"flat_cut": None, "jagged_cut": {}}])
def test_all_categories_are_optional(document):
    columns = events(20)
    plan = planned(document)
    assert not plan.selects
    assert plan.keep(columns).all()
    assert plan.outputs == ("nJets", "nLeptons", "met", "partonE", "partonPt")
    assert plan.apply(columns)["met"] is columns["met"]


# --- cuts ---


@pytest.mark.parametrize(
    ("cut", "meaning"),
    [
        ("nJets<3", lambda n: n < 3),
        ("3>=nJets", lambda n: n <= 3),
        ("3 >= nJets > 1", lambda n: 1 < n <= 3),
        ("1<=nJets<4", lambda n: 1 <= n < 4),
        ("1<nJets<=4", lambda n: 1 < n <= 4),
        ("4>nJets>=1", lambda n: 1 <= n < 4),
        ("nJets==2", lambda n: n == 2),
        ("2 != nJets", lambda n: n != 2),
        ("nJets!=2", lambda n: n != 2),
        ("abs(nJets-3)<=1", lambda n: abs(n - 3) <= 1),
        ("nJets<2.5e0", lambda n: n < 2.5),
        ("nJets>.2E+1", lambda n: n > 2),
        ("-1<nJets", lambda n: True),
        ("nJets<1 or nJets>4", lambda n: n < 1 or n > 4),
        ("not (nJets<2)", lambda n: n >= 2),
        ("nJets % 2 == 1", lambda n: n % 2 == 1),
        ("(nJets>1) & (nJets<4)", lambda n: 1 < n < 4),
        ("1<=nJets", lambda n: n >= 1),
    ],
)
def test_flat_cuts(cut, meaning):
    columns = events(60)
    assert planned(flat_cut(cut)).keep(columns).tolist() == [meaning(int(n)) for n in columns["nJets"]]


_values = st.one_of(st.integers(-3, 3).map(float), st.just(math.nan), st.just(math.inf))
_cuts = {
    "x>1": lambda v: v > 1,
    "1>=x": lambda v: v <= 1,
    "-1<=x<2": lambda v: -1 <= v < 2,
    "abs(x)<2.4": lambda v: abs(v) < 2.4,
    "x!=1": lambda v: v != 1 and not math.isnan(v),
    "not x<1": lambda v: v >= 1,
    "x==1 or x==2": lambda v: v in (1, 2),
    "x>1e0": lambda v: v > 1,
}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(_values, max_size=4), max_size=8), st.dictionaries(st.sampled_from(sorted(_cuts)), st.sampled_from(["any", "all"]), min_size=1)
)
def test_jagged_cuts_equal_plain_python(lists, cuts):
    """On a branch of the files and on a new one alike; all cuts are ANDed."""
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    columns = Columns(len(lists), {"x": Jagged(np.array([value for part in lists for value in part], np.float64), offsets)})
    expected = [all({"any": any, "all": all}[how](_cuts[text](value) for value in part) for text, how in cuts.items()) for part in lists]
    entry = {f"cut_{number}": [text, how] for number, (text, how) in enumerate(cuts.items())}
    direct = plan(Preproc.model_validate({"jagged_cut": {"x": entry}}), {"x": "jagged"}, ["x"])
    assert direct.keep(columns).tolist() == expected
    renamed = {key: [text.replace("x", "copy"), how] for key, (text, how) in entry.items()}
    computed = plan(Preproc.model_validate({"new_branch": {"copy": {"def": "x*1", "type": "jagged", **renamed}}}), {"x": "jagged"}, ["x"])
    assert computed.keep(columns).tolist() == expected
    selected = computed.apply(columns)
    np.testing.assert_equal(selected["copy"].lists(), [part for part, kept in zip(lists, expected, strict=True) if kept])


def test_cuts_give_the_same_on_any_division_into_batches():
    """The original crashed on the last, shorter chunk of a file."""
    columns = events(103)
    plan = planned(json.loads(PUBLISHED))
    whole = plan.apply(columns)
    parts = [plan.apply(columns.slice(start, start + 10)) for start in range(0, 103, 10)]
    assert sum(part.n for part in parts) == whole.n
    np.testing.assert_equal([event for part in parts for event in part["log_partonE"].lists()], whole["log_partonE"].lists())
    assert plan.apply(columns.slice(103, 103)).n == 0


def test_a_cut_may_use_other_branches():
    columns = events(50)
    plan = planned({"jagged_cut": {"partonPt": {"cut": ["partonPt > 3 * met and flag", "any"]}}}, ["partonPt"])
    assert plan.read == ("partonPt", "flag", "met")
    assert plan.outputs == ("partonPt",)
    expected = [bool(columns["flag"][i]) and any(pt > 3 * columns["met"][i] for pt in columns["partonPt"].lists()[i]) for i in range(50)]
    assert plan.keep(columns).tolist() == expected


def test_a_cut_may_reduce_lists():
    columns = events(50)
    assert planned(flat_cut("nJets > count(partonPt)")).keep(columns).tolist() == [
        n > len(pt) for n, pt in zip(columns["nJets"], columns["partonPt"].lists(), strict=True)
    ]
    assert planned(jagged_cut(["sum(partonPt) > 1000", "all"])).keep(columns).tolist() == [
        np.sum(pt, dtype=np.float64) > 1000 for pt in columns["partonPt"].lists()
    ]


def test_a_boolean_branch_is_a_condition_and_a_number_is_not():
    columns = events(30)
    assert planned(flat_cut("flag", "flag")).keep(columns).tolist() == columns["flag"].tolist()
    with pytest.raises(WorkflowError, match=r"preproc.flat_cut.met.cut: 'met' is not a condition but a number \(float32\); write .* met!=0"):
        planned(flat_cut("met", "met")).keep(columns)


@pytest.mark.parametrize(("name", "cut"), [("a/b", "`a/b` > 0.5"), ("a/b", "get('a/b') > 0.5")])
def test_names_that_are_no_identifiers(name, cut):
    columns = events(30)
    assert planned(flat_cut(cut, name)).keep(columns).tolist() == (columns[name] > 0.5).tolist()
    dotted = planned(jagged_cut(["jet.pt > 0.5", "any"], "jet.pt"))
    assert dotted.keep(columns).tolist() == [any(value > 0.5 for value in part) for part in columns["jet.pt"].lists()]


def test_a_branch_named_as_a_constant():
    document = Preproc.model_validate({"flat_cut": {"e": {"cut": "e > 5"}}})
    columns = Columns(2, {"e": np.array([3.0, 7.0])})
    assert plan(document, {"e": "flat"}, ["e"]).keep(columns).tolist() == [False, True]
    with pytest.raises(WorkflowError, match="there is no branch 'e'"):
        plan(document, {"met": "flat"}, ["met"])


# --- new branches, removal ---


def test_new_branches_may_use_each_other_in_any_order():
    document = {
        "new_branch": {
            "c": {"def": "a + b", "type": "jagged"},
            "b": {"def": "a * 2", "type": "jagged", "remove": True},
            "a": {"def": "partonPt + met", "type": "jagged", "keys_to_remove": ["met"]},
        }
    }
    columns = events(20)
    plan = planned(document, ["met", "nJets"])
    assert plan.read == ("met", "nJets", "partonPt")
    assert plan.outputs == ("nJets", "c", "a")
    out = plan.apply(columns)
    np.testing.assert_allclose(out["c"].content, 3 * out["a"].content, rtol=1e-6)
    assert out["c"].offsets is out["a"].offsets
    defined = plan.define(columns)
    assert {"a", "b", "c", "met", "partonPt"} <= set(defined)
    assert defined["b"].offsets is columns["partonPt"].offsets


def test_remove_takes_effect_after_all_cuts():
    document = {
        "flat_cut": {"nJets": {"cut": "nJets>2", "remove": "True"}, "met": {"remove": True}},
        "jagged_cut": {"partonE": {"cut": ["partonE>400", "any"], "remove": True}},
        "new_branch": {"twice": {"def": "2*nJets", "type": "flat", "cut": "twice<12", "remove": "True", "keys_to_remove": "nLeptons"}},
    }
    columns = events()
    plan = planned(document)
    assert plan.outputs == ("partonPt",)
    expected = [2 < n < 6 and any(e > 400 for e in energies) for n, energies in zip(columns["nJets"], columns["partonE"].lists(), strict=True)]
    assert plan.keep(columns).tolist() == expected
    assert plan.apply(columns).n == sum(expected) > 0
    assert plan.needed == ("partonPt",)


def test_without_selection_prediction_needs_only_what_the_outputs_are_made_of():
    document = {
        "new_branch": {
            "ratio": {"def": "met/nJets", "type": "flat"},
            "only_cut": {"def": "nLeptons*2", "type": "flat", "cut": "only_cut<3", "remove": True},
        }
    }
    plan = planned(document, ["met"])
    assert plan.needed == ("met", "nJets")
    raw = events(10).only(["met", "nJets"])
    out = plan.apply(raw, select=False)
    assert (tuple(out), out.n) == (("met", "ratio"), 10)
    assert "only_cut" not in plan.define(raw)
    with pytest.raises(DataError, match="'nLeptons'"):
        plan.keep(raw)
    with pytest.raises(DataError, match="'nJets'"):
        plan.define(raw.only(["met"]))


def test_a_plan_of_a_plan_s_own_branches_is_the_same():
    """A bundle keeps only the branches that were read."""
    preproc = Preproc.model_validate_json(PUBLISHED)
    first = plan(preproc, KINDS, ["met", "partonPt"])
    again = plan(preproc, {name: KINDS[name] for name in first.read}, ["met", "partonPt"])
    assert (again.read, again.needed, again.outputs) == (first.read, first.needed, first.outputs)


def test_a_plan_cannot_be_changed_and_can_be_sent():
    plan = planned(json.loads(PUBLISHED))
    with pytest.raises(AttributeError):
        plan.outputs = ()
    again = pickle.loads(pickle.dumps(plan))  # noqa: S301
    assert again.keep(events()).tolist() == plan.keep(events()).tolist()
    with pytest.raises(ValidationError, match="frozen"):
        parse({"files": ["f"], "labels": ["0"], "model": "m.py"}).preproc.flat_cut = {}


def test_a_workflow_takes_a_preproc():
    preproc = Preproc.model_validate_json(PUBLISHED)
    assert parse({"files": ["f"], "labels": ["0"], "model": "m.py", "preproc": preproc}).preproc == preproc


# --- bad input ---

CIRCLE = {"new_branch": {"a": {"def": "b", "type": "flat"}, "b": {"def": "c", "type": "flat"}, "c": {"def": "a+met", "type": "flat"}}}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"flat_cuts": {}}, r"preproc: there is no category 'flat_cuts' \(did you mean 'flat_cut'\?\); allowed are new_branch, flat_cut, jagged_cut"),
        ("x", "preproc: .*valid dictionary"),
        ([], "preproc: .*valid dictionary"),
        ({"flat_cut": []}, "preproc.flat_cut: must be an object with one entry per branch"),
        ({"flat_cut": {"nJets": "nJets>1"}}, r"preproc.flat_cut.nJets: must be an object such as \{\"cut\": \"0<=x<=2\"\}"),
        ({"flat_cut": {"nJets": {}}}, "preproc.flat_cut.nJets: has no cut; write"),
        ({"jagged_cut": {"partonPt": {"remove": "False"}}}, "preproc.jagged_cut.partonPt: has no cut; write"),
        (flat_cut("nJets+1"), "preproc.flat_cut.nJets.cut: 'nJets[+]1' is not a condition; write a comparison"),
        (flat_cut("5"), "'5' is not a condition"),
        (flat_cut("nJets>"), "preproc.flat_cut.nJets.cut: expression 'nJets>': is not valid: invalid syntax$"),
        (flat_cut("nJets && 3"), "write 'and' instead of '&&'"),
        (flat_cut("nJets = 3"), "write == to compare"),
        (flat_cut(""), "preproc.flat_cut.nJets.cut: the cut is empty"),
        (flat_cut(3), "preproc.flat_cut.nJets.cut: a cut of a flat branch is a text such as"),
        (flat_cut("met>3"), "preproc.flat_cut: cut of 'nJets' is 'met>3', which does not use 'nJets'"),
        (flat_cut("a/b>1", "a/b"), "write its name in backquotes: `a/b`"),
        (flat_cut(["nJets>3", "any"]), 'write only "nJets>3" for a flat one'),
        (flat_cut("nJets>1 and partonPt>2"), r"preproc.flat_cut.nJets.cut: .* gives a list per event; reduce it with any\(...\)"),
        (flat_cut("__import__('os').system('id')>nJets"), "only functions can be called, by their name"),
        ({"flat_cut": {"nJets": {"cutt": "nJets>1"}}}, r"preproc.flat_cut.nJets: there is no key 'cutt' \(did you mean 'cut'\?\)"),
        ({"flat_cut": {"nJets": {"cut_x": "nJets>1"}}}, "there is no key 'cut_x'"),
        ({"flat_cut": {"nJets": {"cut_1": "nJets>1", "cut_2": "nJets>>1"}}}, "preproc.flat_cut.nJets.cut_2: 'nJets>>1' is not a condition"),
        ({"flat_cut": {"nJets": {"cut": "nJets>1", "remove": "maybe"}}}, "preproc.flat_cut.nJets.remove: must be true or false"),
        (flat_cut("nJet>1", "nJet"), r"preproc.flat_cut.nJet: there is no branch 'nJet' \(did you mean 'nJets'\?\)"),
        (flat_cut("partonPt>1", "partonPt"), "preproc.flat_cut.partonPt: branch 'partonPt' is jagged; its cuts belong under jagged_cut"),
        (jagged_cut(["nJets>1", "any"], "nJets"), "preproc.jagged_cut.nJets: branch 'nJets' is flat; its cuts belong under flat_cut"),
        (jagged_cut("partonPt>1"), r'partonPt.cut: .* how many elements satisfy it: write \["partonPt>1", "any"\] or \["partonPt>1", "all"\]'),
        (jagged_cut(["partonPt>1"]), r'is a list of two texts: write \["x>5", "any"\]'),
        (jagged_cut([3, "any"]), "is a list of two texts"),
        (jagged_cut(["partonPt>1", "some"]), '\'some\' is neither "any" nor "all"'),
        (jagged_cut(["sqr(partonPt)>1", "any"]), r"no function 'sqr' \(did you mean 'sqrt'\?\)"),
        (new_branch(definition="log(metx)", type="flat"), r"preproc.new_branch.new.def: .* no branch 'metx' \(did you mean 'met'\?\)"),
        (new_branch(definition="log(met)", type="flatt"), r'preproc.new_branch.new.type: must be "flat" or "jagged" \(did you mean'),
        (new_branch(definition="log(met)"), "preproc.new_branch.new.type: .*required"),
        (new_branch(type="flat"), "preproc.new_branch.new.def: .*required"),
        (new_branch(definition=5, type="flat"), r"preproc.new_branch.new.def: must be an expression such as log\(x\)"),
        (new_branch(definition="log(", type="flat"), "preproc.new_branch.new.def: expression 'log[(]': is not valid"),
        (new_branch(definition="log(met)", type="jagged"), "preproc.new_branch.new.type: is 'jagged', but .* is flat; write 'flat'"),
        (new_branch(definition="log(partonE)", type="flat"), "preproc.new_branch.new.type: is 'flat', but .* is jagged; write 'jagged'"),
        (new_branch(definition="met", type="flat", cut=["new>1", "any"]), 'preproc.new_branch.new: cut: .* write only "new>1"'),
        (new_branch(definition="partonE", type="jagged", cut_1="new>1"), r'preproc.new_branch.new: cut_1: .* write \["new>1", "any"\]'),
        (new_branch(definition="met", type="flat", cut="met>1"), "'met>1', which does not use 'new'"),
        (
            new_branch(definition="met", type="flat", keys_to_remove=["mett"]),
            r"new.keys_to_remove: there is no branch 'mett' \(did you mean 'met'\?\)",
        ),
        (new_branch(definition="met", type="flat", keys_to_remove=3), "preproc.new_branch.new.keys_to_remove: .*list"),
        (new_branch(definition="met", type="flat", extra=1), "preproc.new_branch.new: there is no key 'extra'; allowed are"),
        (new_branch(definition="new+1", type="flat"), "preproc.new_branch: new branches define each other in a circle: new -> new"),
        (CIRCLE, "in a circle: a -> b -> c -> a"),
        ({"new_branch": {"met": {"def": "nJets+1", "type": "flat"}}}, "preproc.new_branch.met: the files have a branch 'met' already"),
        ({"new_branch": {"": {"def": "nJets+1", "type": "flat"}}}, "'' is not a name of a branch"),
        ({"new_branch": {"a`": {"def": "nJets+1", "type": "flat"}}}, "is not a name of a branch"),
        ({**flat_cut("met>1", "met"), **jagged_cut(["met>1", "any"], "met")}, "'met' stands in flat_cut and in jagged_cut"),
    ],
)
def test_refused_with_one_sentence(document, sentence):
    with pytest.raises(WorkflowError, match=sentence) as caught:
        planned(document)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("preproc")


def test_a_wanted_branch_that_is_not_there():
    with pytest.raises(WorkflowError, match=r"there is no branch 'Met' \(did you mean 'met'\?\)"):
        planned({}, ["Met"])


def test_a_circle_that_only_the_files_show():
    """`e` is a constant until the document or the files say otherwise."""
    document = {"new_branch": {"e": {"def": "f*2", "type": "flat"}, "f": {"def": "e+1", "type": "flat"}}}
    with pytest.raises(WorkflowError, match="in a circle: e -> f -> e"):
        planned(document)
