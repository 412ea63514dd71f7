"""Bad input: one clear sentence on stderr, exit code 2, and nothing left behind that was not there before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas import pipeline
from mlaas.models.bundle import read_bundle
from mlaas.workflow import from_flags
from tests.integration.jobs import TREE, done, listing, mlaas, toys, write_job, write_root

FAST = {"selected_branches": "mva,met,partonPt"}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("MLAAS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[Path]:
    """Two small files of toy events."""
    folder = tmp_path_factory.mktemp("pair")
    return [write_root(folder / "ttH.root", toys(300, 1)), write_root(folder / "tt.root", toys(300, 0))]


def refused(flags, says: str, *, command: str = "workflow", out: Path | None = None) -> str:
    """Run a command that must fail as the user's mistake; returns the sentence."""
    folder = Path(flags[0].partition("=")[2]).parent
    out = out or folder / "out"
    before = listing(folder)
    ended = mlaas(command, *flags, *([f"--fout={out}"] if command != "specs" and command != "prepare" else []))
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.count("\n") == 1, ended.err
    sentence = ended.sentence
    assert says in sentence, sentence
    assert "Traceback" not in sentence
    assert len(sentence) < 500
    assert listing(folder) == before
    assert not [path for path in listing(Path(os.environ["MLAAS_CACHE"])) if "/." in path.removeprefix(os.environ["MLAAS_CACHE"])]
    return sentence


def flags_of(folder: Path, files, labels=(1, 0), model: str = "logistic", params=None, preproc=None) -> list[str]:
    return write_job(folder / "job", files, labels if isinstance(labels, str) else list(labels), model, {**FAST, **(params or {})}, preproc)


class TestFiles:
    def test_a_missing_file_names_the_nearest(self, pair, tmp_path, cache):
        sentence = refused(flags_of(tmp_path, [pair[0], pair[1].with_name("tq.root")]), "there is no file")
        assert "did you mean 'tt.root'?" in sentence

    @pytest.mark.parametrize(
        ("content", "says"),
        [(b"", "empty"), (b"not events at all\n" * 100, "not a ROOT file"), (b"PAR1" + bytes(500), "not a ROOT file"), (b"root", "damaged")],
    )
    def test_files_that_are_no_root_files(self, pair, tmp_path, cache, content, says):
        path = tmp_path / "bad.root"
        path.write_bytes(content)
        assert "bad.root" in refused(flags_of(tmp_path, [pair[0], path]), says)

    @pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.999])
    def test_truncated_files(self, pair, tmp_path, cache, kept):
        path = tmp_path / "cut.root"
        data = pair[1].read_bytes()
        path.write_bytes(data[: int(len(data) * kept)])
        assert "cut.root" in refused(flags_of(tmp_path, [pair[0], path]), "truncated")

    def test_a_file_with_a_damaged_basket(self, pair, tmp_path, cache):
        path = tmp_path / "hurt.root"
        data = bytearray(pair[1].read_bytes())
        with uproot.open(f"{pair[1]}:{TREE}") as tree:
            seek = int(tree["mva"].member("fBasketSeek")[0])
        data[seek + 60 : seek + 400] = os.urandom(340)
        path.write_bytes(data)
        assert "hurt.root" in refused(flags_of(tmp_path, [pair[0], path]), "damaged")

    def test_a_folder(self, pair, tmp_path, cache):
        assert "is a folder" in refused(flags_of(tmp_path, [pair[0], pair[0].parent]), "*.root")

    def test_the_same_file_twice(self, pair, tmp_path, cache):
        refused(flags_of(tmp_path, [pair[0], pair[0]]), "twice")

    def test_a_missing_list_of_files(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        (tmp_path / "job" / "files.txt").unlink()
        refused(flags, "files: there is no file")

    def test_a_file_that_may_not_be_read(self, pair, public, monkeypatch):
        monkeypatch.setenv("MLAAS_CACHE", str(public / "cache"))
        secret = public / "secret"
        secret.mkdir(mode=0o700)
        shutil.copy(pair[0], secret / "ttH.root")
        flags = flags_of(public, [secret / "ttH.root", pair[1]], model="def model(idim):\n    return None\n")  # others may not import anything
        (public / "job").chmod(0o777)
        if os.geteuid():
            secret.chmod(0)
        with unprivileged():
            try:
                assert "ttH.root" in refused(flags, "access is refused")
            finally:
                if os.geteuid() == os.getuid():
                    secret.chmod(0o700)

    def test_a_file_without_events(self, pair, tmp_path, cache):
        nothing = {name: values[:0] for name, values in toys(5).items()}
        path = write_root(tmp_path / "empty.root", nothing)
        refused(flags_of(tmp_path, [pair[0], path]), "no event of class 0 is left")
        refused(flags_of(tmp_path, [path], "kind"), "no event")

    def test_a_file_without_usable_branches(self, tmp_path, cache):
        with uproot.recreate(tmp_path / "words.root") as file:
            file.mktree("events", {"word": "string"}).extend({"word": ["a", "b"]})
        refused(flags_of(tmp_path, [tmp_path / "words.root"], [1], params={"branch": "events", "selected_branches": ""}), "word (strings)")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user of the machine can enter and write to."""
    folder = Path(tempfile.mkdtemp(prefix="mlaas-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody who is not root, where the tests run as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestTreesAndBranches:
    def test_a_tree_that_is_not_there(self, pair, tmp_path, cache):
        assert TREE in refused(flags_of(tmp_path, pair, params={"branch": "boostedAk8/event"}), "has no tree 'boostedAk8/event'")

    def test_a_file_without_trees(self, pair, tmp_path, cache):
        with uproot.recreate(tmp_path / "hist.root") as file:
            file["h"] = np.histogram(np.arange(5))
        refused(flags_of(tmp_path, [pair[0], tmp_path / "hist.root"]), "holds no TTree or RNTuple")

    @pytest.mark.parametrize(
        ("params", "says"),
        [
            ({"selected_branches": ["mva", "metx"]}, "'metx' in"),
            ({"selected_branches": "partonpt"}, "did you mean 'partonPt'?"),
            ({"exclude_branches": "jet_*"}, "no branch matches 'jet_*'"),
            ({"weight": "genWeigth"}, "did you mean 'genWeight'?"),
            ({"weight": "partonPt"}, "one number"),
            ({"selected_branches": "mva", "exclude_branches": "mva"}, "no branch is left to be a feature"),
        ],
    )
    def test_branches_that_are_not_there(self, pair, tmp_path, cache, params, says):
        refused(flags_of(tmp_path, pair, params=params), says)

    def test_files_whose_branches_differ(self, pair, tmp_path, cache):
        events = toys(300, 0)
        del events["met"]
        other = write_root(tmp_path / "other.root", events)
        sentence = refused(flags_of(tmp_path, [pair[0], other]), "lacks branch 'met'")
        assert "other.root" in sentence
        assert "ttH.root" in sentence

    def test_files_whose_branches_have_other_kinds(self, pair, tmp_path, cache):
        events = toys(300, 0)
        events["met"] = ak.unflatten(np.ones(300, np.float32), np.ones(300, np.int64))
        other = write_root(tmp_path / "other.root", events)
        refused(flags_of(tmp_path, [pair[0], other]), "'met' is flat in")


class TestLabels:
    def test_their_number(self, pair, tmp_path, cache):
        refused(flags_of(tmp_path, pair, [1, 0, 2]), "3 labels for 2 files")

    @pytest.mark.parametrize(
        ("labels", "params", "says"),
        [
            ([1, 1], {}, "at least two classes"),
            ([1, 7], {"classes": [0, 1]}, "not one of params.classes"),
            ([1, 0], {"classes": [0, 1, 2]}, "no event of class 2"),
            ([1, 0], {"task": "regression"}, "regression needs the name of a branch"),
            ("knd", {}, "did you mean 'kind'?"),
            ("partonPt", {}, "a list per event"),
            ("kind", {"classes": [1]}, "which is not one of params.classes"),
            ("recoil", {"task": "classification"}, "regression"),
        ],
    )
    def test_labels_outside_the_classes(self, pair, tmp_path, cache, labels, params, says):
        refused(flags_of(tmp_path, pair, labels, params=params), says)

    def test_a_missing_list_of_labels(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        (tmp_path / "job" / "labels.txt").unlink()
        refused(flags, "labels: there is no file")


class TestValues:
    def events(self, n: int, label: int, **changed) -> dict:
        return {**toys(n, label), **changed}

    def test_nan_and_infinities_are_counted_and_trained_around(self, tmp_path, cache):
        met = toys(400, 1)["met"].copy()
        met[[3, 7]], met[11], met[12] = np.nan, np.inf, -np.inf
        files = [
            write_root(tmp_path / "a.root", self.events(400, 1, met=met)),
            write_root(tmp_path / "b.root", toys(400, 0)),
        ]
        flags = flags_of(tmp_path, files, model="mlp")
        done("workflow", *flags, f"--fout={tmp_path / 'out'}")
        prepared = pipeline.prepare(from_flags(**dict(flag[2:].split("=", 1) for flag in flags)))
        found = prepared.specs.branches["met"]
        assert (found.nans, found.infinities) == (2, 2)
        assert found.high == max(met[np.isfinite(met)].max(), toys(400, 0)["met"].max())
        for chunk in prepared.dataset.chunks("train"):
            assert np.isfinite(chunk.x).all()
            assert chunk.x.min() >= 0
            assert chunk.x.max() <= 1
        (table,) = json.loads(done("inspect", files[0], "--json").out)
        (branch,) = [branch for branch in table["branches"] if branch["name"] == "met"]
        assert (branch["nan"], branch["infinite"]) == (2, 2)

    @pytest.mark.parametrize(
        ("branch", "params", "labels", "says"),
        [
            ("recoil", {}, "recoil", "labels must be finite"),
            ("genWeight", {"weight": "genWeight"}, (1, 0), "weights must be finite"),
        ],
    )
    def test_labels_and_weights_must_be_numbers(self, pair, tmp_path, cache, branch, params, labels, says):
        values = toys(300, 1)[branch].copy()
        values[42] = np.nan
        bad = write_root(tmp_path / "bad.root", {**toys(300, 1), branch: values})
        sentence = refused(flags_of(tmp_path, [bad, pair[1]], labels, params=params), says)
        assert "entry 42" in sentence
        assert "bad.root" in sentence

    def test_a_branch_that_is_empty_in_one_file(self, pair, tmp_path, cache):
        events = toys(300, 0)
        events["parton"] = events["parton"][:, :0]
        other = write_root(tmp_path / "other.root", events)
        done("workflow", *flags_of(tmp_path, [pair[0], other]), f"--fout={tmp_path / 'out'}")
        specs = json.loads((tmp_path / "out" / "specs.json").read_text())
        assert 190 <= specs["minv"]["partonPt"] < specs["maxv"]["partonPt"] < 1500

    def test_a_branch_that_is_empty_everywhere(self, tmp_path, cache):
        files = []
        for label in (1, 0):
            events = toys(300, label)
            events["parton"] = events["parton"][:, :0]
            files.append(write_root(tmp_path / f"{label}.root", events))
        done("workflow", *flags_of(tmp_path, files), f"--fout={tmp_path / 'out'}")
        assert read_bundle(tmp_path / "out").manifest.width == 2
        refused(flags_of(tmp_path, files, params={"selected_branches": "partonPt"}), "empty in all events")

    def test_no_event_passes_the_cuts(self, pair, tmp_path, cache):
        cut = {"flat_cut": {"met": {"cut": "met>1e6", "remove": "False"}}}
        refused(flags_of(tmp_path, pair, preproc=cut), "no event is left of 600")

    def test_no_event_of_one_class_passes_the_cuts(self, pair, tmp_path, cache):
        cut = {"flat_cut": {"kind": {"cut": "kind==1", "remove": "False"}}}
        refused(flags_of(tmp_path, pair, preproc=cut, params={"selected_branches": "kind,met"}), "no event of class 0 is left")


class TestModel:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("def modell(idim):\n    return None\n", "does not define the function model(idim) (did you mean 'modell'?)"),
            ("model = 5\n", "not a function"),
            ("def model():\n    return None\n", "exactly one argument"),
            ("def model(idim)\n    return None\n", "line 1: not Python"),
            ("raise RuntimeError('no luck')\n", "RuntimeError: no luck"),
            ("def model(idim):\n    raise ValueError('wrong\\nwidth')\n", "line 2: model raised ValueError: wrong"),
            ("def model(idim):\n    import sys\n    sys.exit(3)\n", "SystemExit"),
            ("def model(idim):\n    pass\n", "returned nothing"),
            ("def model(idim):\n    return 'a net'\n", "returned a str"),
            ("from sklearn.svm import SVC\ndef model(idim):\n    return SVC\n", "returned the class SVC"),
            ("import nosuchpackage\ndef model(idim):\n    return None\n", "nosuchpackage, which is not installed"),
            ("from sklearn.cluster import KMeans\ndef model(idim):\n    return KMeans(3)\n", "KMeans"),
            ("from sklearn.linear_model import LinearRegression\ndef model(idim):\n    return LinearRegression()\n", "LinearRegression"),
        ],
    )
    def test_a_model_file_that_cannot_be_used(self, pair, tmp_path, cache, text, says):
        refused(flags_of(tmp_path, pair, model=text), says)

    @pytest.mark.parametrize(
        ("last", "says"),
        [
            ("    return net\n", "compile"),
            ("    net.add(keras.layers.Dense(5))\n    net.compile('adam', 'mse')\n    return net\n", "5"),
            ("    net.compile(keras.optimizers.SGD(1e30), 'mse')\n    return net\n", "loss became"),
        ],
    )
    def test_keras_models_that_do_not_fit(self, pair, tmp_path, cache, last, says):
        text = "import keras\ndef model(idim):\n    net = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1)])\n"
        refused(flags_of(tmp_path, pair, model=text + last), says)

    def test_a_missing_model_file(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        (tmp_path / "job" / "model.py").unlink()
        refused(flags, "model: there is no file")

    def test_it_is_told_before_the_files_are_read(self, pair, tmp_path, cache):
        refused(flags_of(tmp_path, pair, model="def model(idim)\n"), "not Python")
        assert listing(cache) == set()


class TestParams:
    @pytest.mark.parametrize(
        ("params", "says"),
        [
            ({"nevtts": 3000}, "params.nevtts: unknown parameter (did you mean 'nevts'?)"),
            ({"epoch": 3}, "did you mean 'epochs'?"),
            ({"epochs": "many"}, "params.epochs"),
            ({"epochs": 0}, "params.epochs"),
            ({"batch_size": 2.5}, "params.batch_size"),
            ({"chunk_size": 0}, "params.chunk_size: must be -1 (all) or at least 1"),
            ({"shuffle": "perhaps"}, "params.shuffle"),
            ({"split": 1.5}, "params.split: must be a fraction"),
            ({"hist": "gifs"}, "params.hist"),
            ({"nan": "infinity"}, "params.nan"),
            ({"procedure": "both"}, "params.procedure"),
            ({"file_weights": [1.0]}, "1 weights for 2 files"),
            ({"memory_limit": "lots"}, "memory_limit"),
            ({"memory_limit": "10KB"}, "needs all training data at once"),
            ({"device": "tpu"}, "params.device"),
        ],
    )
    def test_wrong_types_and_unknown_names(self, pair, tmp_path, cache, params, says):
        refused(flags_of(tmp_path, pair, params=params), says)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('{"epochs": 3,}', "params.json is not JSON: "),
            ("[1, 2]", "must hold a JSON object, not list"),
            ("", "is not JSON"),
            ("\xff\xfe", "params.json"),
        ],
    )
    def test_what_is_no_json(self, pair, tmp_path, cache, text, says):
        flags = flags_of(tmp_path, pair)
        (tmp_path / "job" / "params.json").write_text(text, encoding="latin-1")
        refused(flags, says)

    def test_a_missing_file(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        (tmp_path / "job" / "params.json").unlink()
        refused(flags, "params: there is no file")

    def test_early_stopping_without_validation(self, pair, tmp_path, cache):
        refused(flags_of(tmp_path, pair, model="mlp", params={"split": 0, "early_stopping": 2}), "params.early_stopping needs validation events")

    def test_specs_of_other_files(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        (tmp_path / "job" / "specs.json").write_text(json.dumps({"minv": {"pt": 0}, "maxv": {"pt": 1}, "jdim": {}}))
        refused([*flags, f"--specs={tmp_path / 'job' / 'specs.json'}"], "they belong to other files")

    def test_an_unknown_flag(self, pair, tmp_path, cache):
        refused([*flags_of(tmp_path, pair), "--epochs=3"], "unrecognized arguments: --epochs=3")


class TestCuts:
    @pytest.mark.parametrize(
        "cut", ["met>", "met > 40 and", "__import__('os').system('true') > 1", "met", "evil(met)>3", "mett>3", "met>'a'", "lambda: met>3", ""]
    )
    def test_what_is_no_cut(self, pair, tmp_path, cache, cut):
        refused(flags_of(tmp_path, pair, preproc={"flat_cut": {"met": {"cut": cut, "remove": "False"}}}), "preproc")

    @pytest.mark.parametrize(
        ("preproc", "says"),
        [
            ({"jagged_cut": {"partonPt": {"cut": ["partonPt>200", "some"], "remove": "False"}}}, '"any" nor "all"'),
            ({"jagged_cut": {"partonPt": {"cut": "partonPt>200", "remove": "False"}}}, '"any"'),
            ({"flat_cut": {"partonPt": {"cut": "partonPt>200", "remove": "False"}}}, "partonPt"),
            ({"flat_cut": {"mett": {"cut": "mett>200", "remove": "False"}}}, "did you mean 'met'?"),
            ({"flat_cuts": {}}, "did you mean 'flat_cut'?"),
            ({"new_branch": {"x": {"def": "log(mett)", "type": "flat"}}}, "did you mean 'met'?"),
            ({"new_branch": {"x": {"def": "logg(met)", "type": "flat"}}}, "did you mean 'log'?"),
            ({"new_branch": {"x": {"def": "partonPt*2", "type": "flat"}}}, "jagged"),
        ],
    )
    def test_a_preproc_that_does_not_fit(self, pair, tmp_path, cache, preproc, says):
        assert "preproc" in refused(flags_of(tmp_path, pair, preproc=preproc), says)


class TestPlaces:
    def test_fout_that_is_no_bundle(self, pair, tmp_path, cache):
        out = tmp_path / "job" / "out"
        out.mkdir(parents=True)
        (out / "thesis.tex").write_text("precious")
        refused(flags_of(tmp_path, pair), "exists and is not a bundle", out=out)
        assert (out / "thesis.tex").read_text() == "precious"

    def test_fout_that_is_a_file_or_below_one(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        (tmp_path / "job" / "notes").write_text("precious")
        refused(flags, "is not a bundle", out=tmp_path / "job" / "notes")
        refused(flags, "is not a folder", out=tmp_path / "job" / "notes" / "ttH")

    def test_fout_where_nothing_may_be_written(self, pair, public, monkeypatch):
        monkeypatch.setenv("MLAAS_CACHE", str(public / "cache"))
        flags = flags_of(public, [public / path.name for path in pair])
        for path in pair:
            shutil.copy(path, public)
        closed = public / "closed"
        closed.mkdir(mode=0o555)
        with unprivileged():
            refused(flags, "may not be written to", out=closed / "ttH")
            refused(flags, "may not be written to", out=closed / "deep" / "ttH")

    def test_a_cache_that_cannot_be_written(self, pair, tmp_path, cache, monkeypatch):
        (tmp_path / "file").write_text("")
        flags = flags_of(tmp_path, pair)
        monkeypatch.setenv("MLAAS_CACHE", str(tmp_path / "file"))
        assert "set MLAAS_CACHE" in refused(flags, "handled data cannot be written")

    def test_an_earlier_bundle_is_replaced_whole(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        done("workflow", *flags, f"--fout={tmp_path / 'out'}")
        (tmp_path / "out" / "old").write_text("")
        done("workflow", *flags, f"--fout={tmp_path / 'out'}")
        assert not (tmp_path / "out" / "old").exists()
        read_bundle(tmp_path / "out")

    def test_an_earlier_bundle_stays_when_the_run_fails(self, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        done("workflow", *flags, f"--fout={tmp_path / 'job' / 'out'}")
        (tmp_path / "job" / "model.py").write_text("def model(idim):\n    return 1\n")
        refused(flags, "returned an int")
        read_bundle(tmp_path / "job" / "out")


LIMITED = """\
import resource, sys
from mlaas.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


class TestFullDisk:
    """A small file system where the tests may mount one (root), and a limit on the size of files, which everybody can set."""

    @pytest.fixture
    def small(self, tmp_path) -> Iterator[Path]:
        folder = tmp_path / "small"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("only root can mount a small file system, and not in every container")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)

    def test_while_preparing(self, small, tmp_path, monkeypatch):
        files = [write_root(tmp_path / f"{label}.root", toys(4000, label)) for label in (1, 0)]
        flags = flags_of(tmp_path, files, params={"selected_branches": ""})
        monkeypatch.setenv("MLAAS_CACHE", str(small))
        sentence = refused(flags, "the disk is full while writing handled data")
        assert str(small) in sentence
        whole = {"handled.json", "events.arrow"}
        assert all({path.name for path in folder.iterdir()} == whole for folder in (small / "handled").iterdir())

    def test_while_writing_the_bundle(self, small, pair, tmp_path, cache):
        flags = flags_of(tmp_path, pair)
        ended = mlaas("workflow", *flags, f"--fout={small / 'ttH'}")
        assert ended.code == 2, ended
        assert "the disk is full" in ended.sentence
        assert ended.err.count("\n") == 1
        assert not (small / "ttH").exists()
        assert {path.name for path in small.iterdir()} == {".ttH.run"}  # the training is not lost
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        done("workflow", *flags, f"--fout={small / 'ttH'}", "--resume")
        read_bundle(small / "ttH")
        assert {path.name for path in small.iterdir()} == {"ttH"}

    @pytest.mark.parametrize("room", [2_000, 40_000])
    def test_a_limit_on_the_size_of_files(self, pair, tmp_path, cache, room):
        flags = flags_of(tmp_path, pair, model="forest")
        before = listing(tmp_path / "job")
        command = [sys.executable, "-c", LIMITED, str(room), "workflow", *flags, f"--fout={tmp_path / 'job' / 'out'}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 2, ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("mlaas: ")
        left = {path for path in listing(tmp_path / "job") - before if "/.out.run" not in path}
        assert left == set()
