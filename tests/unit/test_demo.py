"""The toy events, their files in each layout, and the demo's workflow."""

from __future__ import annotations

import json

import numpy as np
import pytest
import uproot

from mlaas.data.columns import Jagged
from mlaas.demo import COMPRESSIONS
from mlaas.demo.events import COLLECTIONS, FLAT, IDENTIFIERS, SHAPES, blocks, draw
from mlaas.demo.generate import WORKFLOW_FILES, write, write_pair, write_workflow
from mlaas.errors import DataError
from mlaas.workflow import from_flags


def values(column):
    return column.lists() if isinstance(column, Jagged) else column.tolist()


def same(path, events, tree="events"):
    """Whether the file holds exactly these events."""
    with uproot.open(path) as file:
        found = file[tree]
        assert found.num_entries == len(events)
        return all(found[name].array().tolist() == values(events[name]) for name in events)


def test_the_counts_are_those_of_the_papers():
    events = draw(50)
    jagged = [name for name in events if isinstance(events[name], Jagged)]
    flat = [name for name in events if name not in jagged and name not in IDENTIFIERS]
    assert (len(flat), len(jagged), len(IDENTIFIERS)) == (22, 52, 3)
    assert len(FLAT) + len(COLLECTIONS) == 22


def test_the_same_arguments_give_the_same_events():
    one, other, third = draw(300, seed=7), draw(300, seed=7), draw(300, seed=8)
    assert all(values(one[name]) == values(other[name]) for name in one)
    assert values(one["jet_pt"]) != values(third["jet_pt"])


def test_fewer_events_are_the_first_of_more():
    few, many = draw(40, profile="seed"), draw(90, profile="seed")
    assert all(values(few[name]) == values(many[name])[:40] for name in few)


def test_blocks_go_on_where_the_last_ended():
    sizes, last = [], -1
    for block in blocks(20_500, "background", profile="seed"):
        sizes.append(len(block))
        assert block["evtNo"][0] == last + 1
        last = int(block["evtNo"][-1])
    assert sizes == [10_000, 10_000, 500]


def test_events_are_consistent():
    events = draw(500)
    for name in COLLECTIONS:
        pt = events[f"{name}_pt"]
        assert pt.counts.tolist() == events[f"n{name}"].tolist()
        assert all(values == sorted(values, reverse=True) for values in pt.lists())
        assert all(events[f"{name}_{field}"].offsets is pt.offsets for field in COLLECTIONS[name].fields)
    assert events["njet"].min() >= 1
    np.testing.assert_allclose(events["ht"], [sum(values) for values in events["jet_pt"].lists()], rtol=1e-5)
    assert events["nBJets"].tolist() == [sum(values) for values in events["jet_isBtag"].lists()]
    np.testing.assert_allclose(events["jet_energy"].content, events["jet_pt"].content * np.cosh(events["jet_eta"].content), rtol=1e-5)


def test_signal_differs_from_background_but_not_fully():
    signal, background = draw(4000, "signal"), draw(4000, "background")
    for name in ("njet", "ht", "mbb", "nBJets"):
        one, other = np.asarray(signal[name], float), np.asarray(background[name], float)
        distance = abs(one.mean() - other.mean()) / other.std()
        assert 0.1 < distance < 1, name


def test_the_mixed_process_has_targets():
    events = draw(3000, "mixed", targets=True, profile="seed")
    assert set(events["process"].tolist()) == {shape.code for shape in SHAPES.values()}
    assert np.corrcoef(events["ptH"], events["ht"])[0, 1] > 0.8
    assert 80 < np.median(events["mbb"][events["process"] == SHAPES["ttz"].code]) < 105


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_each_compression_holds_the_events(tmp_path, compression):
    path = write(tmp_path / "a.root", 120, profile="seed", compression=compression)
    assert same(path, draw(120, profile="seed"))


@pytest.mark.parametrize("basket", [1, 50, 64, 1000])
def test_baskets_change_nothing_but_their_number(tmp_path, basket):
    path = write(tmp_path / "a.root", 130 if basket > 1 else 3, profile="seed", basket=basket)
    assert same(path, draw(130 if basket > 1 else 3, profile="seed"))
    with uproot.open(path) as file:
        assert file["events/jet_pt"].num_baskets == -(-file["events"].num_entries // basket)


def test_counters_are_shared(tmp_path):
    with uproot.open(write(tmp_path / "a.root", 20)) as file:
        assert file["events/jet_pt"].count_branch.name == file["events/jet_eta"].count_branch.name == "njet"


def test_rntuple(tmp_path):
    assert same(write(tmp_path / "a.root", 150, "background", profile="seed", layout="rntuple", basket=60), draw(150, "background", profile="seed"))


@pytest.mark.needs("c++")
def test_vectors(tmp_path):
    path = write(tmp_path / "a.root", 150, profile="seed", layout="vector", basket=60, targets=True)
    assert same(path, draw(150, profile="seed", targets=True))
    with uproot.open(path) as file:
        assert file["events/jet_pt"].typename == "std::vector<float>"
        assert file["events/jet_isBtag"].typename == "std::vector<bool>"
        assert file["events/jet_pt"].num_baskets == 3


def test_a_tree_in_a_directory(tmp_path):
    assert same(write(tmp_path / "a.root", 20, profile="seed", tree="ttH/events"), draw(20, profile="seed"), "ttH/events")


@pytest.mark.parametrize(("events", "basket"), [(0, 10), (-5, 10), (10, 0)])
def test_numbers_below_one_are_refused(tmp_path, events, basket):
    with pytest.raises(DataError, match="at least 1"):
        write(tmp_path / "a.root", events, basket=basket)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_stays(tmp_path):
    (tmp_path / "a.root").mkdir()
    with pytest.raises(DataError, match=r"a\.root cannot be written"):
        write(tmp_path / "a.root", 20, profile="seed")
    assert [path.name for path in tmp_path.iterdir()] == ["a.root"]


def test_the_pair_and_its_workflow(tmp_path):
    signal, background = write_pair(tmp_path, 201, profile="seed")
    with uproot.open(signal) as one, uproot.open(background) as other:
        assert (one["events"].num_entries, other["events"].num_entries) == (101, 100)
    write_workflow(tmp_path)
    workflow = from_flags(**{name.split(".")[0]: str(tmp_path / name) for name in WORKFLOW_FILES})
    assert workflow.files == [str(signal), str(background)]
    assert workflow.labels == [1, 0]
    with uproot.open(signal) as file:
        assert set(workflow.params.identifier) <= set(file["events"].keys())


def test_workflow_files_of_the_user_stay(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps({"epochs": 3}))
    assert tmp_path / "params.json" not in write_workflow(tmp_path)
    assert json.loads((tmp_path / "params.json").read_text()) == {"epochs": 3}
