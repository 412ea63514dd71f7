"""Bundles: written whole or not at all, read only when unchanged, packed, unpacked, published."""

from __future__ import annotations

import collections
import dataclasses
import errno
import gzip
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlaas.errors import BundleError, ModelError, ResourceError
from mlaas.models import archive, staging
from mlaas.models.archive import pack, unpack
from mlaas.models.bundle import read_bundle, write_bundle
from mlaas.models.engine import load_engine
from mlaas.models.manifest import Manifest, parse_manifest, safe_path
from mlaas.models.repository import Repository
from mlaas.models.trees import check_trees
from mlaas.models.usercode import MODULE
from tests.support.trained import DOCUMENTS, X, files, fitted, logistic


@pytest.fixture(scope="module")
def trained():
    return logistic()


@pytest.fixture
def bundle(tmp_path, trained):
    write_bundle(tmp_path / "tth", trained, DOCUMENTS, provenance={"files": ["a.root"], "auc": np.float64("nan")})
    return tmp_path / "tth"


def edit(folder: Path, **fields) -> None:
    """Change fields of a manifest."""
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**document, **fields}))


def test_everything_is_listed_and_read_back(bundle, trained):
    opened = read_bundle(bundle)
    manifest = opened.manifest
    present = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert present == {*manifest.files, "manifest.json"}
    assert present >= {"features.json", "specs.json", "model.py", "params.json", "labels.txt", "model.skops", "model.onnx"}
    assert manifest.name == "tth"
    assert manifest.classes == ["background", "signal"]
    assert manifest.onnx.accepted
    assert manifest.onnx.difference is not None
    assert manifest.onnx.difference < 1e-6
    assert manifest.native.difference is not None
    assert manifest.created.utcoffset() is not None
    assert manifest.versions["scikit-learn"]
    assert manifest.provenance == {"files": ["a.root"], "auc": None}
    assert opened.json("features.json") == {"columns": ["a", "b"], "padding": None}
    assert opened.json("specs.json") == {"minv": [1.5]}
    assert opened.text("labels.txt") == "background\nsignal\n"
    assert files(bundle.parent) == {"tth"}
    with pytest.raises(BundleError, match="has no nothing"):
        opened.file("nothing.txt")


def test_files_and_folders_are_copied(tmp_path, trained):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<html>")
    (tmp_path / "m.jsonl").write_text("{}\n")
    write_bundle(tmp_path / "b", trained, {"metrics.json": {}}, {"report": tmp_path / "report", "metrics.jsonl": tmp_path / "m.jsonl"})
    assert read_bundle(tmp_path / "b").text("report/index.html") == "<html>"
    assert read_bundle(tmp_path / "b").text("metrics.jsonl") == "{}\n"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "manifest.json", "model.onnx", "variables/x", "", "a//b"])
def test_documents_cannot_leave_or_overwrite(tmp_path, trained, name):
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "b", trained, {name: "text"})
    assert files(tmp_path) == set()


def test_existing_target_is_kept_unless_replaced(bundle, trained):
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(bundle, trained, {})
    assert (bundle / "manifest.json").read_bytes() == before
    write_bundle(bundle, trained, {}, replace=True)
    assert "features.json" not in read_bundle(bundle).manifest.files
    assert files(bundle.parent) == {"tth"}


def test_parts_must_agree(tmp_path, trained):
    wrong = [
        ({"x": X[:, :3]}, "takes"),
        ({"scores": trained.scores[:5]}, "scores of shape"),
        ({"classes": ["one"]}, "at least 2 classes"),
        ({"framework": "caffe"}, "caffe"),
        ({"output": "value"}, "does not fit"),
        ({"wants_mask": True}, "mask"),
    ]
    for fields, message in wrong:
        with pytest.raises(ModelError, match=message):
            write_bundle(tmp_path / "b", dataclasses.replace(trained, **fields), {})
    with pytest.raises(BundleError, match="letters, digits"):
        write_bundle(tmp_path / "b", trained, {}, name="../evil")
    assert files(tmp_path) == set()


def test_wrong_scores_leave_no_form_to_serve(tmp_path, trained):
    with pytest.raises(BundleError, match="no form of the model gives its scores"):
        write_bundle(tmp_path / "b", dataclasses.replace(trained, scores=1 - trained.scores), {})
    assert files(tmp_path) == set()


def test_changed_byte(bundle):
    path = bundle / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx has changed"):
        read_bundle(bundle)
    assert read_bundle(bundle, verify=False).manifest.name == "tth"


def test_missing_parts(bundle, tmp_path):
    (bundle / "features.json").unlink()
    with pytest.raises(BundleError, match=r"features\.json is missing"):
        read_bundle(bundle)
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        read_bundle(bundle)
    with pytest.raises(BundleError, match="no bundle at"):
        read_bundle(tmp_path / "nowhere")


def test_links_are_refused(bundle, tmp_path):
    text = (bundle / "model.py").read_text()
    (tmp_path / "outside.py").write_text(text)
    (bundle / "model.py").unlink()
    (bundle / "model.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(BundleError, match=r"model\.py is a link"):
        read_bundle(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "a\\..\\b", "./a", ""])
def test_paths_that_leave_the_bundle(bundle, path):
    with pytest.raises(ValueError, match="not a path inside"):
        safe_path(path)
    listed = json.loads((bundle / "manifest.json").read_text())["files"]
    edit(bundle, files={**listed, path: "0" * 64})
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        read_bundle(bundle)


def test_damaged_manifests(bundle):
    text = (bundle / "manifest.json").read_text()
    for changed, message in [
        (text[:-20], "not JSON"),
        ("[]", "no field 'format'"),
        ("[" * 100_000, "not JSON"),
        (text.replace('"format": 1', '"format": 2'), "format 2"),
        (text.replace('"framework": "sklearn"', '"framework": "caffe"'), "framework"),
        (text.replace('"width": 6', '"width": 0'), "width"),
    ]:
        assert changed != text
        with pytest.raises(BundleError, match=message):
            parse_manifest(changed, "manifest.json")
    (bundle / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="not a text file"):
        read_bundle(bundle)


def test_manifest_must_name_known_forms(bundle):
    native = json.loads((bundle / "manifest.json").read_text())["native"]
    edit(bundle, native={**native, "form": "model.py", "files": ["model.py"]})
    with pytest.raises(BundleError, match="not a form of sklearn"):
        load_engine(bundle, "native", trust=True)
    edit(bundle, native={**native, "form": "model.h5"})
    with pytest.raises(BundleError, match=r"model\.h5 is used but not listed"):
        load_engine(bundle, "native", trust=True)


# --- nothing half-written -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))])
@pytest.mark.parametrize("stage", ["write_bytes", "sync_tree", "digest"])
def test_disk_full_leaves_nothing(tmp_path, trained, monkeypatch, error, stage):
    def full(*args, **more):
        raise error

    monkeypatch.setattr(staging, stage, full)
    with pytest.raises(ResourceError, match="disk is full"):
        write_bundle(tmp_path / "b", trained, DOCUMENTS)
    assert files(tmp_path) == set()


def test_real_writes_that_fail(tmp_path):
    """A limit on the size of files makes the kernel refuse the writes of every library alike, in Python and in C++."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        from sklearn.ensemble import RandomForestClassifier
        from mlaas.errors import ResourceError
        from mlaas.models.bundle import write_bundle
        from tests.support.trained import fitted
        import onnx, onnxruntime, skops.io, skl2onnx
        trained = fitted(RandomForestClassifier(n_estimators=40), "binary")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for limit in (100, 20_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                write_bundle(Path(sys.argv[1]) / "b", trained, {"a.txt": "x" * 99})
            except ResourceError as error:
                print("refused", error)
    """
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), tmp_path], capture_output=True, text=True, check=True)
    assert found.stdout.count("refused the disk is full") == 2, found.stderr
    assert files(tmp_path) == set()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupt_leaves_nothing(tmp_path, trained, monkeypatch, stop):
    def interrupted(*args, **more):
        raise stop

    monkeypatch.setattr("mlaas.models.bundle.finish", interrupted)
    with pytest.raises(stop):
        write_bundle(tmp_path / "b", trained, DOCUMENTS)
    assert files(tmp_path) == set()


def test_replacing_keeps_the_old_one_when_the_rename_fails(bundle, trained, monkeypatch):
    rename = Path.rename

    def failing(self, target):
        if ".tmp-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(bundle, trained, {}, replace=True)
    monkeypatch.undo()
    assert "features.json" in read_bundle(bundle).manifest.files
    assert files(bundle.parent) == {"tth"}


def test_unwritable_place(tmp_path, trained):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "b", trained, {})


# --- pickles --------------------------------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def poison(bundle: Path, bomb: Path) -> None:
    """Put a malicious pickle into a bundle, with the right digest."""
    data = pickle.dumps(Bomb(bomb))
    (bundle / "model.pickle").write_bytes(data)
    document = json.loads((bundle / "manifest.json").read_text())
    document["files"]["model.pickle"] = staging.digest(bundle / "model.pickle")
    document["native"] |= {"form": "model.pickle", "files": ["model.pickle"], "trust": False}
    document["engine"] = "native"
    (bundle / "manifest.json").write_text(json.dumps(document))


def test_malicious_pickle_is_not_executed(bundle, tmp_path):
    bomb = tmp_path / "exploded"
    poison(bundle, bomb)
    for engine in ("auto", "native"):
        with pytest.raises(BundleError, match="is a pickle, which can run any code when loaded; load it with trust only"):
            load_engine(bundle, engine)
    assert not bomb.exists()
    with pytest.raises(AttributeError):
        load_engine(bundle, "native", trust=True)
    assert bomb.exists()  # so the test would have noticed


def test_pickle_disguised_as_skops(bundle, tmp_path):
    bomb = tmp_path / "exploded"
    poison(bundle, bomb)
    data = (bundle / "model.pickle").read_bytes()
    (bundle / "model.skops").write_bytes(data)
    document = json.loads((bundle / "manifest.json").read_text())
    document["files"]["model.skops"] = staging.digest(bundle / "model.skops")
    document["native"] |= {"form": "model.skops", "files": ["model.skops"]}
    (bundle / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_engine(bundle, "native")
    assert not bomb.exists()


OWN = """
from sklearn.base import BaseEstimator, ClassifierMixin
import numpy as np

class Half(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        self.classes_ = np.array([0, 1])
        return self
    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-x[:, 0].astype(float)))
        return np.column_stack([1 - p, p])

def model(idim):
    return Half()
"""


def test_own_estimator_needs_trust_and_its_model_py(tmp_path, monkeypatch):
    module = types.ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)  # as training leaves it
    exec(OWN, module.__dict__)  # noqa: S102
    own = fitted(module.model(6), "binary")
    manifest = write_bundle(tmp_path / "b", own, {"model.py": OWN})
    assert sys.modules[MODULE] is module
    assert manifest.native.trust
    assert not manifest.onnx.accepted
    assert manifest.engine == "native"
    monkeypatch.delitem(sys.modules, MODULE)
    with pytest.raises(BundleError, match=r"trust.*ONNX form, which needs no trust, was refused"):
        load_engine(tmp_path / "b")
    assert MODULE not in sys.modules
    np.testing.assert_allclose(load_engine(tmp_path / "b", trust=True).predict(X), own.scores, atol=1e-7)


def test_what_skops_cannot_hold_is_pickled_with_a_note(tmp_path):
    odd = logistic()
    odd.model.pattern_ = re.compile("jet_.*")
    manifest = write_bundle(tmp_path / "b", odd, {})
    assert manifest.native.form == "model.pickle"
    assert manifest.native.trust
    assert "because skops cannot hold it: TypeError" in manifest.native.note
    np.testing.assert_allclose(load_engine(tmp_path / "b").predict(X), odd.scores, atol=1e-6)  # ONNX needs no trust
    with pytest.raises(BundleError, match="is a pickle"):
        load_engine(tmp_path / "b", "native")
    np.testing.assert_array_equal(load_engine(tmp_path / "b", "native", trust=True).predict(X), odd.scores)


def test_what_skops_holds_wrongly_is_pickled(tmp_path, monkeypatch):
    module = types.ModuleType("shift_of_the_test")
    module.Shifted = type("Shifted", (LogisticRegression,), {"predict_proba": shifted, "__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    odd = module.Shifted()
    odd.shift_ = collections.deque([0.1])  # skops gives it back empty
    manifest = write_bundle(tmp_path / "b", fitted(odd, "binary"), {})
    assert manifest.native.form == "model.pickle"
    assert manifest.native.difference == 0


def shifted(self, x):
    p = self.decision_function(x) / 100 + sum(self.shift_) + 0.3
    return np.column_stack([1 - p, p])


def test_what_nothing_can_hold(tmp_path):
    odd = logistic()
    odd.model.values_ = (value for value in [1])
    with pytest.raises(ModelError, match=r"the LogisticRegression cannot be saved: skops: .*; pickle: TypeError"):
        write_bundle(tmp_path / "b", odd, {})
    assert files(tmp_path) == set()


def test_damaged_tree_is_refused(tmp_path):
    from sklearn.tree import DecisionTreeClassifier

    tree = fitted(DecisionTreeClassifier(max_depth=3), "binary")
    write_bundle(tmp_path / "b", tree, {})
    check_trees(tree.model, 6, tmp_path)
    inner = tree.model.tree_.children_left != -1
    feature = tree.model.tree_.feature[inner][0]
    tree.model.tree_.feature[0] = 6
    with pytest.raises(BundleError, match="damaged tree"):
        check_trees(tree.model, 6, tmp_path)
    tree.model.tree_.feature[0] = feature
    tree.model.tree_.children_left[0] = 0
    with pytest.raises(BundleError, match="damaged tree"):
        check_trees(tree.model, 6, tmp_path)


# --- archives -------------------------------------------------------------------------------------------------------------------------------


def test_pack_and_read(bundle, tmp_path, trained):
    first = pack(bundle, tmp_path / "one.tar.gz")
    second = pack(bundle, tmp_path / "two.tar.gz", folder="")
    assert first.read_bytes() == pack(bundle, tmp_path / "three.tar.gz").read_bytes()
    with tarfile.open(first) as packed:
        names = packed.getnames()
    assert names[0] == "tth"
    assert "tth/manifest.json" in names
    for path in (first, second):
        with pytest.raises(BundleError, match="exists already"):
            pack(bundle, path)
        opened = read_bundle(path)
        assert opened.manifest == read_bundle(bundle).manifest
        np.testing.assert_allclose(load_engine(opened).predict(X), trained.scores, atol=1e-6)
        folder = opened.path
        del opened
        assert not folder.exists()
    assert unpack(first, tmp_path / "out").name == "tth"
    assert read_bundle(tmp_path / "out").json("specs.json") == {"minv": [1.5]}
    with pytest.raises(BundleError, match="exists already"):
        unpack(first, tmp_path / "out")


def hostile(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for member, data in members:
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (member("../evil"), "leaves its folder"),
        (member("/tmp/evil"), "leaves its folder"),  # noqa: S108
        (member("a/../../evil"), "leaves its folder"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "link or a special file"),
        (member("hard", tarfile.LNKTYPE, "manifest.json"), "link or a special file"),
        (member("pipe", tarfile.FIFOTYPE), "link or a special file"),
        (member("device", tarfile.CHRTYPE), "link or a special file"),
        (member("notes.txt"), r"no manifest\.json"),
    ],
)
def test_hostile_archives(tmp_path, made, message):
    path = hostile(tmp_path / "x.tar.gz", (made, b""))
    with pytest.raises(BundleError, match=message):
        unpack(path, tmp_path / "in" / "out")
    assert files(tmp_path) <= {"x.tar.gz", "in"}
    assert not list(tmp_path.glob("in/*"))


def test_archives_that_are_too_large(tmp_path):
    zeros = hostile(tmp_path / "bomb.tar.gz", (member("zeros"), bytes(5_000_000)))
    with pytest.raises(BundleError, match="more than 1000000 bytes"):
        unpack(zeros, tmp_path / "out", max_bytes=1_000_000)
    many = hostile(tmp_path / "many.tar.gz", *[(member(f"f{number}"), b"") for number in range(20)])
    with pytest.raises(BundleError, match="more than 10 files"):
        unpack(many, tmp_path / "out", max_files=10)
    header = member("manifest.json")
    header.pax_headers = {"comment": "x" * 3_000_000}
    with pytest.raises(BundleError, match="oversized header"):
        unpack(hostile(tmp_path / "pax.tar.gz", (header, b"")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_archives(bundle, tmp_path):
    good = pack(bundle, tmp_path / "good.tar.gz").read_bytes()
    for name, data in [("cut", good[: len(good) // 2]), ("text", b"hello"), ("empty", b""), ("notar", gzip.compress(b"x" * 4000))]:
        path = tmp_path / f"{name}.tar.gz"
        path.write_bytes(data)
        with pytest.raises(BundleError, match=r"not a \.tar\.gz file|no manifest"):
            read_bundle(path)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    (tmp_path / "flipped.tar.gz").write_bytes(flipped)
    with pytest.raises(BundleError):
        unpack(tmp_path / "flipped.tar.gz", tmp_path / "out")
    with pytest.raises(BundleError, match="no file"):
        unpack(tmp_path / "missing.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_packing_to_a_full_disk(bundle, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive, "_add", full)
    with pytest.raises(ResourceError, match="disk is full"):
        pack(bundle, tmp_path / "full.tar.gz")
    assert files(tmp_path) == {"tth"}


# --- repository -----------------------------------------------------------------------------------------------------------------------------


def test_publishers_never_collide(bundle, tmp_path):
    root = tmp_path / "repository"
    code = """
        import sys
        from mlaas.models.repository import Repository
        for _ in range(3):
            print(Repository(sys.argv[1]).publish(sys.argv[2], "atlas").manifest.version)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), root, bundle]
    publishers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = [int(line) for publisher in publishers for line in publisher.communicate()[0].split()]
    assert sorted(made) == list(range(1, 10))
    repository = Repository(root)
    assert repository.versions("atlas", "tth") == list(range(1, 10))
    for version in made:
        opened = repository.open("atlas", "tth", version)
        assert (opened.manifest.name, opened.manifest.version) == ("tth", version)
    assert files(root / "atlas" / "tth") == {*map(str, made), ".lock", ".last-version"}


def test_repository(bundle, tmp_path):
    repository = Repository(tmp_path / "repository")
    assert repository.tenants() == []
    assert repository.publish(bundle, "cms", "higgs").manifest.name == "higgs"
    assert repository.publish(bundle, "cms", "higgs").manifest.version == 2
    assert json.loads(repository.open("cms", "higgs").text("params.json"))["name"] == "higgs"
    assert repository.open("cms", "higgs").manifest.created == read_bundle(bundle).manifest.created
    repository.remove("cms", "higgs", 2)
    assert repository.versions("cms", "higgs") == [1]
    assert repository.publish(bundle, "cms", "higgs").manifest.version == 3
    assert (repository.tenants(), repository.models("cms")) == (["cms"], ["higgs"])
    with pytest.raises(BundleError, match="no version 2, only 1, 3"):
        repository.open("cms", "higgs", 2)
    with pytest.raises(BundleError, match="did you mean 'higgs'"):
        repository.open("cms", "hixgs")
    repository.remove("cms", "higgs")
    assert repository.models("cms") == []
    assert repository.publish(bundle, "cms", "higgs").manifest.version == 4
    for tenant, model in [("..", "higgs"), ("cms", "../other"), ("", "x"), ("a/b", "x"), (".hidden", "x")]:
        with pytest.raises(BundleError, match="must be up to 100"):
            repository.publish(bundle, tenant, model or "x")


def test_damaged_bundles_are_not_published(bundle, tmp_path):
    (bundle / "model.py").write_text("changed")
    with pytest.raises(BundleError, match="has changed"):
        Repository(tmp_path / "repository").publish(bundle, "cms")
    assert not (tmp_path / "repository").exists()


def test_publisher_killed_in_the_middle(bundle, tmp_path):
    """What a killed publisher leaves is hidden, holds no lock and takes no version number that a reader sees."""
    code = """
        import os, signal, sys
        from mlaas.models import repository
        repository.staging.move_into_place = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        repository.Repository(sys.argv[1]).publish(sys.argv[2], "cms")
    """
    root = tmp_path / "repository"
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code), root, bundle], check=False)
    assert found.returncode == -signal.SIGKILL
    repository = Repository(root)
    assert repository.versions("cms", "tth") == []
    assert repository.publish(bundle, "cms").manifest.version == 2
    assert isinstance(repository.open("cms", "tth").manifest, Manifest)


def test_a_sparse_member_cannot_stand_for_terabytes(tmp_path):
    """A few bytes of an archive that would become a file of 1 TB: no limit on what is read stops it."""
    holes = member("manifest.json")
    holes.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(10**12), "GNU.sparse.map": "0,0"}
    with pytest.raises(BundleError, match="sparse file"):
        unpack(hostile(tmp_path / "holes.tar.gz", (holes, b"")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
