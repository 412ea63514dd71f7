"""`mlaas predict` and `Predictor`: raw events in, the scores that training saw out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas import pipeline
from mlaas.errors import DataError
from mlaas.models.predict import Predictor
from mlaas.workflow import from_flags
from tests.integration import jobs
from tests.integration.jobs import PUBLISHED_PREPROC, TREE, done, mlaas, toys, write_job, write_root

MASKED = """\
import torch
class Net(torch.nn.Module):
    "Takes the padding mask as a second input."
    def __init__(self, idim):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2 * idim, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    def forward(self, x, mask):
        return self.layers(torch.cat([x, mask], 1))
def model(idim):
    return Net(idim)
"""


FRIEND = """\
import sys
import ROOT
file = ROOT.TFile.Open(sys.argv[1])
tree = file.Get(sys.argv[2])
tree.AddFriend("scores", sys.argv[3])
print(tree.GetEntries("scores.selected"), tree.GetEntries("scores.selected && nLeptons>2"), tree.GetEntries("scores.score>=0 && scores.score<=1"))
"""


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory):
    """Folders of jobs by name, each with its bundle in `out`: an ONNX engine, a native one, a mask, three classes."""
    made: dict[str, Path] = {}
    files = [samples / "ttH.root", samples / "tt.root"]

    def train(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = MASKED if name == "masked" else name
            flags = write_job(folder, files, [1, 0], model, {"epochs": 6, "shuffle": True}, PUBLISHED_PREPROC)
            done("workflow", *flags, f"--fout={folder / 'out'}")
            made[name] = folder
        return made[name]

    return train


def document(folder: Path, **params):
    """The job's workflow with other parameters."""
    names = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json", "preproc": "preproc.json"}
    workflow = from_flags(**{name: str(folder / file) for name, file in names.items()})
    return workflow.model_copy(update={"params": workflow.params.model_copy(update=params)})


def friend(path: Path) -> dict[str, np.ndarray]:
    with uproot.open(f"{path}:scores") as tree:
        return tree.arrays(library="np")


class TestFiles:
    @pytest.mark.parametrize("name", ["mlp", "hist", "masked"])
    def test_the_scores_are_those_that_training_saw(self, trained, samples, tmp_path, name):
        """Each entry's score is the trained model's on the very row of the matrix that training was given for it."""
        folder = trained(name)
        written = done("predict", folder / "out", samples / "ttH.root", samples / "tt.root", f"--output={tmp_path}").out.split()
        assert written == [str(tmp_path / "ttH.scores.root"), str(tmp_path / "tt.scores.root")]
        dataset = pipeline.prepare(document(folder, split=0.0, chunk_size=-1, shuffle=False)).dataset  # rows in the order of the entries
        (chunk,) = dataset.chunks("train", mask=True)
        native = Predictor(folder / "out", "native", trust=True).engine
        expected = native.predict(chunk.x, chunk.mask)
        found = [friend(Path(path)) for path in written]
        for scores, entries in zip(found, (1500, 2500), strict=True):
            assert set(scores) == {"score", "selected"}
            assert len(scores["score"]) == entries
            assert scores["score"].dtype == np.float32
            assert scores["selected"].dtype == np.bool_
            assert np.isfinite(scores["score"]).all()  # events that fail the cuts are scored too
        got = np.concatenate([scores["score"][scores["selected"]] for scores in found])
        assert len(got) == len(chunk) > 500
        np.testing.assert_allclose(got, expected, atol=1e-6)

    def test_selected_is_what_the_cuts_select(self, trained, samples, tmp_path):
        done("predict", trained("mlp") / "out", samples / "tt.root", f"--output={tmp_path}")
        events = uproot.open(f"{samples / 'tt.root'}:{TREE}").arrays()
        log_e, square = np.log(events["partonE"]), events["nJets"] ** 2
        keep = ak.any(log_e < 6.31, axis=1) & ak.all(log_e > 5.85, axis=1) & (square >= 1) & (square <= 16)
        keep = keep & (events["nLeptons"] <= 2) & ak.all(events["partonPt"] > 200, axis=1)
        np.testing.assert_array_equal(friend(tmp_path / "tt.scores.root")["selected"], ak.to_numpy(keep))

    def test_root_itself_takes_it_as_a_friend(self, trained, samples, tmp_path):
        done("predict", trained("mlp") / "out", samples / "ttH.root", f"--output={tmp_path}")
        command = [sys.executable, "-W", "ignore", "-c", FRIEND, str(samples / "ttH.root"), TREE, str(tmp_path / "ttH.scores.root")]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        selected, contradicting, scored = (int(word) for word in ended.stdout.split()[-3:])
        assert selected == int(friend(tmp_path / "ttH.scores.root")["selected"].sum()) > 200
        assert contradicting == 0
        assert scored == 1500

    def test_parquet_holds_the_same(self, trained, samples, tmp_path):
        done("predict", trained("mlp") / "out", samples / "tt.root", f"--output={tmp_path}")
        done("predict", trained("mlp") / "out", samples / "tt.root", f"--output={tmp_path}", "--format=parquet")
        table = pq.read_table(tmp_path / "tt.scores.parquet")
        root = friend(tmp_path / "tt.scores.root")
        assert table.column_names == ["score", "selected"]
        for name in table.column_names:
            np.testing.assert_array_equal(table[name].to_numpy(), root[name])

    def test_both_engines_agree(self, trained, samples, tmp_path):
        for engine in ("onnx", "native"):
            done("predict", trained("mlp") / "out", samples / "tt.root", f"--output={tmp_path / engine}", f"--engine={engine}")
        first, other = (friend(tmp_path / engine / "tt.scores.root")["score"] for engine in ("onnx", "native"))
        np.testing.assert_allclose(first, other, atol=1e-5)

    def test_the_bundle_alone_is_enough(self, tmp_path):
        """The files, the job and the cache of the training are gone; the bundle has moved."""
        files = [write_root(tmp_path / "data" / f"{label}.root", toys(400, label)) for label in (1, 0)]
        flags = write_job(tmp_path / "job", files, [1, 0], "logistic", {"selected_branches": "mva,met,partonPt"})
        done("workflow", *flags, f"--fout={tmp_path / 'job' / 'out'}")
        events = jobs.plain(toys(3, 1, seed=9))
        before = Predictor(tmp_path / "job" / "out").predict(events)
        shutil.move(tmp_path / "job" / "out", tmp_path / "elsewhere")
        shutil.rmtree(tmp_path / "job")
        shutil.rmtree(tmp_path / "data")
        new = write_root(tmp_path / "new.root", toys(3, 1, seed=9))
        done("predict", tmp_path / "elsewhere", new, f"--output={tmp_path}")
        np.testing.assert_allclose(friend(tmp_path / "new.scores.root")["score"], before, atol=1e-6)

    def test_without_cuts_nothing_is_said_of_them(self, samples, tmp_path):
        flags = write_job(tmp_path, [samples / "ttH.root", samples / "tt.root"], [1, 0], "logistic", {"selected_branches": "mva,met"})
        done("workflow", *flags, f"--fout={tmp_path / 'out'}")
        done("predict", tmp_path / "out", samples / "tt.root", f"--output={tmp_path}")
        assert set(friend(tmp_path / "tt.scores.root")) == {"score"}

    def test_a_file_without_the_branches_of_cuts_alone(self, trained, tmp_path):
        """Data may lack a branch that only a cut used; the model does not need it."""
        job = tmp_path / "job"
        files = [write_root(tmp_path / f"{label}.root", toys(400, label)) for label in (1, 0)]
        cut = {"flat_cut": {"nLeptons": {"cut": "nLeptons<=2", "remove": "True"}}}
        flags = write_job(job, files, [1, 0], "logistic", {"selected_branches": "mva,met,nLeptons"}, cut)
        done("workflow", *flags, f"--fout={tmp_path / 'out'}")
        events = toys(50, 1)
        whole = write_root(tmp_path / "whole.root", events)
        del events["nLeptons"]
        new = write_root(tmp_path / "new.root", events)
        done("predict", tmp_path / "out", whole, new, f"--output={tmp_path}")
        assert set(friend(tmp_path / "whole.scores.root")) == {"score", "selected"}
        assert set(friend(tmp_path / "new.scores.root")) == {"score"}

    def test_several_classes_have_a_column_each(self, tmp_path):
        files = [write_root(tmp_path / f"{label}.root", toys(400, label)) for label in range(3)]
        flags = write_job(tmp_path / "job", files, ["tt+bb", "ttH", "tt bb"], "logistic", {"selected_branches": "mva,met"})
        done("workflow", *flags, f"--fout={tmp_path / 'out'}")
        done("predict", tmp_path / "out", files[0], f"--output={tmp_path}")
        scores = friend(tmp_path / "0.scores.root")
        assert list(scores) == ["score_tt_bb", "score_tt_bb_1", "score_ttH"]
        np.testing.assert_allclose(sum(scores.values()), 1, atol=1e-6)

    def test_an_empty_tree_gives_an_empty_friend(self, trained, tmp_path):
        empty = write_root(tmp_path / "none.root", {name: values[:0] for name, values in toys(5).items()})
        for kind in ("root", "parquet"):
            done("predict", trained("mlp") / "out", empty, f"--output={tmp_path}", f"--format={kind}")
        assert {name: len(values) for name, values in friend(tmp_path / "none.scores.root").items()} == {"score": 0, "selected": 0}
        assert pq.read_table(tmp_path / "none.scores.parquet").num_rows == 0

    def test_another_tree_and_another_format(self, trained, samples, tmp_path):
        other = write_root(tmp_path / "other.root", toys(1500, 1), tree="nominal")
        done("predict", trained("mlp") / "out", other, "--tree=nominal", f"--output={tmp_path}")
        done("predict", trained("mlp") / "out", samples / "ttH.root", f"--output={tmp_path}")
        np.testing.assert_array_equal(friend(tmp_path / "other.scores.root")["score"], friend(tmp_path / "ttH.scores.root")["score"])
        (tmp_path / "rows.jsonl").write_text(_lines(jobs.plain(toys(1500, 1))))
        done("predict", trained("mlp") / "out", tmp_path / "rows.jsonl", f"--output={tmp_path}", "--format=parquet")
        found = pq.read_table(tmp_path / "rows.scores.parquet")["score"].to_numpy()
        np.testing.assert_allclose(found, friend(tmp_path / "ttH.scores.root")["score"], atol=1e-6)


def _lines(columns: dict[str, list]) -> str:
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return "".join(json.dumps(row) + "\n" for row in rows)


class TestRefusals:
    def refused(self, *arguments, folder: Path) -> str:
        before = jobs.listing(folder)
        ended = mlaas("predict", *arguments)
        assert (ended.code, ended.out) == (2, ""), ended
        assert jobs.listing(folder) == before
        return ended.sentence

    def test_a_file_that_lacks_a_branch(self, trained, tmp_path):
        events = toys(20)
        events["mvaa"] = events.pop("mva")
        path = write_root(tmp_path / "new.root", events)
        sentence = self.refused(trained("mlp") / "out", path, f"--output={tmp_path}", folder=tmp_path)
        assert "no usable branch 'mva', which the model needs (did you mean 'mvaa'?)" in sentence

    def test_a_branch_of_another_kind(self, trained, tmp_path):
        path = write_root(tmp_path / "new.root", {**toys(20), "mva": ak.unflatten(np.ones(20, np.float32), np.ones(20, np.int64))})
        assert "'mva' is jagged in" in self.refused(trained("mlp") / "out", path, f"--output={tmp_path}", folder=tmp_path)

    def test_a_missing_tree_and_file_and_bundle(self, trained, samples, tmp_path):
        path = write_root(tmp_path / "new.root", toys(20), tree="boostedAk8/eventz")
        out = f"--output={tmp_path}"
        assert "did you mean 'boostedAk8/eventz'?" in self.refused(trained("mlp") / "out", path, out, folder=tmp_path)
        assert "there is no file" in self.refused(trained("mlp") / "out", tmp_path / "none.root", out, folder=tmp_path)
        assert "there is no bundle" in self.refused(tmp_path / "none", samples / "tt.root", out, folder=tmp_path)

    def test_a_truncated_file(self, trained, samples, tmp_path):
        (tmp_path / "cut.root").write_bytes((samples / "tt.root").read_bytes()[:60_000])
        assert "cut.root" in self.refused(trained("mlp") / "out", tmp_path / "cut.root", f"--output={tmp_path}", folder=tmp_path)

    def test_a_damaged_bundle(self, trained, samples, tmp_path):
        shutil.copytree(trained("mlp") / "out", tmp_path / "hurt")
        with (tmp_path / "hurt" / "features.json").open("a") as file:
            file.write(" ")
        sentence = self.refused(tmp_path / "hurt", samples / "tt.root", f"--output={tmp_path}", folder=tmp_path)
        assert "features.json has changed" in sentence

    def test_two_files_of_one_name(self, trained, samples, tmp_path):
        shutil.copy(samples / "ttH.root", tmp_path / "tt.root")
        files = (samples / "tt.root", tmp_path / "tt.root")
        assert "two of the files" in self.refused(trained("mlp") / "out", *files, f"--output={tmp_path}", folder=tmp_path)

    def test_a_place_that_is_a_file(self, trained, samples, tmp_path):
        (tmp_path / "notes").write_text("precious")
        sentence = self.refused(trained("mlp") / "out", samples / "tt.root", f"--output={tmp_path / 'notes'}", folder=tmp_path)
        assert "cannot be written" in sentence
        assert (tmp_path / "notes").read_text() == "precious"


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained("mlp") / "out")


@pytest.fixture(scope="module")
def expected(trained, samples, tmp_path_factory):
    """The scores of the first 40 events of ttH.root, by way of files."""
    folder = tmp_path_factory.mktemp("expected")
    done("predict", trained("mlp") / "out", samples / "ttH.root", f"--output={folder}")
    return friend(folder / "ttH.scores.root")["score"][:40]


class TestPredictor:
    def test_events_as_dicts_in_any_order(self, predictor, expected):
        columns = jobs.plain({name: values[:40] for name, values in toys(1500, 1).items()})
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        np.testing.assert_allclose(predictor.predict(rows), expected, atol=1e-6)
        turned = [dict(reversed(row.items())) for row in rows]
        np.testing.assert_allclose(predictor.predict(turned), expected, atol=1e-6)
        np.testing.assert_allclose(predictor.predict(rows[7]), expected[7:8], atol=1e-6)

    def test_events_as_columns_and_awkward_arrays(self, predictor, expected):
        columns = jobs.plain({name: values[:40] for name, values in toys(1500, 1).items()})
        np.testing.assert_allclose(predictor.predict(columns), expected, atol=1e-6)
        arrays = ak.Array({name: ak.Array(values) for name, values in columns.items()})
        np.testing.assert_allclose(predictor.predict(arrays), expected, atol=1e-6)

    def test_longer_lists_than_training_saw_are_cut(self, predictor):
        columns = jobs.plain(toys(1, 1))
        short = {**columns, "partonE": [[400.0] * 6], "partonPt": [[250.0] * 6], "partonid": [[1] * 6], "nparton": [6]}
        long = {**short, "partonE": [[400.0] * 9], "partonPt": [[250.0] * 9], "partonid": [[1] * 9]}
        np.testing.assert_allclose(predictor.predict(long), predictor.predict(short), atol=1e-6)

    def test_a_missing_branch(self, predictor):
        columns = jobs.plain(toys(2, 1))
        del columns["met"]
        with pytest.raises(DataError, match="no branch 'met'"):
            predictor.predict(columns)

    def test_no_events(self, predictor):
        assert predictor.predict([]).shape == (0,)
