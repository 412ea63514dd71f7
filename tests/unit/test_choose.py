"""Which branches become features: names, wildcards, lists in files, and what is said of names that match nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mlaas.data.choose import agree, agree_with, choose, doubtful_identifiers, names_in
from mlaas.data.files import Branch
from mlaas.errors import DataError

NAMES = ("run", "event", "met", "met_phi", "jet_pt", "jet_eta", "njet", "x[0]", "weight")


def file(*names, excluded=None, path="a.root", **kinds):
    branches = {name: Branch(name, np.dtype("f4"), kinds.get(name, "jagged" if name.startswith("jet_") else "flat")) for name in names}
    return SimpleNamespace(path=path, branches=branches, excluded=excluded or {})


TREE = file(*NAMES, excluded={"text": "strings", "jet_nested": "lists of lists"})


def wanted(selected=(), excluded=(), identifier=("run", "event"), hidden=(), tree=TREE):
    return list(choose(tree, selected=list(selected), excluded=list(excluded), identifier=list(identifier), hidden=hidden).wanted)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["met", "met_phi", "jet_pt", "jet_eta", "njet", "x[0]", "weight"]),
        ({"identifier": []}, list(NAMES)),
        ({"identifier": ["run", "nothing_like_it"]}, [name for name in NAMES if name != "run"]),
        ({"identifier": ["*e*"]}, ["run", "x[0]"]),
        ({"selected": ["jet_*"]}, ["jet_pt", "jet_eta"]),
        ({"selected": ["jet_pt", "met"]}, ["met", "jet_pt"]),
        ({"selected": ["x[0]"]}, ["x[0]"]),
        ({"selected": ["?et"]}, ["met"]),
        ({"selected": ["event", "met"]}, ["event", "met"]),
        ({"selected": ["*"]}, ["met", "met_phi", "jet_pt", "jet_eta", "njet", "x[0]", "weight"]),
        ({"excluded": ["jet_*", "njet"]}, ["met", "met_phi", "x[0]", "weight"]),
        ({"selected": ["met*"], "excluded": ["met_phi"]}, ["met"]),
        ({"excluded": ["text"]}, ["met", "met_phi", "jet_pt", "jet_eta", "njet", "x[0]", "weight"]),
        ({"hidden": {"weight"}}, ["met", "met_phi", "jet_pt", "jet_eta", "njet", "x[0]"]),
        ({"hidden": {"weight"}, "selected": ["w*", "met"]}, ["met"]),
        ({"hidden": {"weight"}, "selected": ["weight"]}, ["weight"]),
    ],
)
def test_the_features(options, expected):
    assert wanted(**options) == expected


def test_names_from_a_file(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("# the jets\njet_*\n\n  met  \n")
    assert wanted([str(names)]) == ["met", "jet_pt", "jet_eta"]
    assert "met" not in wanted(excluded=[str(names)])
    assert names_in([str(names)]) == ["jet_*", "met"]
    assert names_in([str(names), "met"]) == [str(names), "met"]


def test_a_list_that_is_none(tmp_path):
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="names none"):
        wanted([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="cannot be read"):
        wanted([str(tmp_path / "binary")])
    with pytest.raises(DataError, match="there is no branch"):
        wanted(["n" * 5000])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"selected": ["mett"]}, r"params.selected_branches: there is no branch 'mett' in a.root \(did you mean 'met'\?\)"),
        ({"selected": ["met", "q*"]}, r"params.selected_branches: no branch matches 'q\*' in a.root"),
        ({"excluded": ["jetpt"]}, r"params.exclude_branches: there is no branch 'jetpt' in a.root \(did you mean 'jet_pt'\?\)"),
        ({"excluded": ["zzz?"]}, r"params.exclude_branches: no branch matches"),
        ({"selected": ["text"]}, r"params.selected_branches: 'text' cannot be a feature \(strings\)"),
        ({"excluded": ["*"]}, r"a.root: no branch is left to be a feature"),
        ({"selected": ["weight"], "excluded": ["weight"]}, r"no branch is left"),
    ],
)
def test_what_matches_nothing_is_named(options, sentence):
    with pytest.raises(DataError, match=sentence):
        wanted(**options)


def test_what_is_left_out_has_a_reason():
    assert choose(TREE, selected=[], excluded=[], identifier=[]).left_out == {"text": "strings", "jet_nested": "lists of lists"}
    assert choose(TREE, selected=["jet_*"], excluded=[], identifier=[]).left_out == {"jet_nested": "lists of lists"}
    assert choose(TREE, selected=[], excluded=["text"], identifier=[]).left_out == {"jet_nested": "lists of lists"}


def test_files_that_agree_and_that_do_not():
    agree(TREE, TREE, NAMES)
    agree(file("met"), file("met", "more", path="b.root"), ["met"])
    with pytest.raises(DataError, match=r"b.root lacks branch 'met', which a.root has \(did you mean 'met_pt'\?\); leave it out"):
        agree(file("met"), file("met_pt", path="b.root"), ["met"])
    with pytest.raises(DataError, match=r"b.root lacks branch 'met' as a number or list of numbers \(strings\)"):
        agree(file("met"), file("x", path="b.root", excluded={"met": "strings"}), ["met"])
    with pytest.raises(DataError, match=r"branch 'met' is flat in a.root but jagged in b.root"):
        agree(file("met"), file("met", path="b.root", met="jagged"), ["met"])


def test_a_file_for_a_model():
    model = file("met", "jet_pt").branches
    agree_with(file("met", "jet_pt", "x"), model)
    with pytest.raises(DataError, match=r"a.root has no usable branch 'jet_pt', which the model needs \(did you mean 'jet_p'\?\)"):
        agree_with(file("met", "jet_p"), model)
    with pytest.raises(DataError, match=r"has no usable branch 'met', which the model needs \(strings\)"):
        agree_with(file("jet_pt", excluded={"met": "strings"}), model)
    with pytest.raises(DataError, match=r"branch 'jet_pt' is flat in a.root, but the model was trained with it jagged"):
        agree_with(file("met", "jet_pt", jet_pt="flat"), model)


def test_identifiers_that_are_none_and_features_that_look_like_some():
    tree = file("runNo", "EventNumber", "lumi_block", "met", "eventShape", "jet_run", excluded={"evt": "strings"})
    assert doubtful_identifiers(tree, ["runNo", "Event*", "lumi_block", "evt"], ["met", "eventShape", "jet_run"]) == []
    missing, alike = doubtful_identifiers(tree, ["runNos", "EventNumber"], ["runNo", "lumi_block", "met", "eventShape"])
    assert missing == "params.identifier: there is no branch 'runNos' in a.root (did you mean 'runNo'?)"
    assert "named like identifiers: runNo, lumi_block;" in alike
