"""Submissions: what can run is queued with everything found, and whatever cannot is refused with the field's name, before it costs anything."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mlaas.errors import WorkflowError
from mlaas.jobs import documents, modelfile, modelparser
from mlaas.jobs.command import request_of, task_of
from mlaas.jobs.requests import JobRequest, PredictRequest, TrainRequest
from mlaas.jobs.sources import Allowed
from mlaas.jobs.states import State
from mlaas.jobs.upload import Upload, normal
from mlaas.models.catalogue import Catalogue
from mlaas.settings import Settings
from mlaas.store import jobs, workers, workspaces
from mlaas.store.records import WorkerRecord
from mlaas.workflow import from_flags
from tests.support.site import ANN, BOB, Site, write_small_bundle

FOLDER = {
    "files.txt": "# signal first\nsignal.root\n./more/b*.root\n",
    "labels.txt": "1\n0\n",
    "model.py": "def model(idim):\n    return None\n",
    "params.json": '{"branch": "events", "epochs": 2}',
    "preproc.json": '{"flat_cut": {"njet": {"cut": "njet >= 2", "remove": "False"}}}',
    "branches.txt": "met\nmva\n",
    "signal.root": b"root",
    "more/b1.root": b"root",
    "more/b2.root": b"root",
}
TRAIN = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json", "preproc": "preproc.json"}
LIMITS = {"total_cpus": 4, "total_memory": 16 * 10**9, "user_cpus": 3, "job_time_limit": 3600, "group_limits": {"/cms": {"memory": "8GB"}}}
REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory):
    """A site to which nothing is ever queued."""
    made = Site(tmp_path_factory.mktemp("calm"), **LIMITS)
    made.upload("tth", FOLDER)
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path, **LIMITS)
    made.upload("tth", FOLDER)
    yield made
    made.close()


def refused(site: Site, **changes) -> str:
    with pytest.raises(WorkflowError) as found:
        site.submit(**{"workspace": "tth", **TRAIN, **changes})
    assert jobs.counts(site.engine)[State.QUEUED] == 0
    assert str(site.places.data) not in str(found.value), "the service's own paths are nobody's business"
    return str(found.value)


def test_a_training_is_queued_with_the_defaults_of_the_site(site):
    job = site.submit("tth", **TRAIN)
    assert (job.process_name, job.model, job.workspace, job.generation, job.kind) == ("tth_1", "tth", "tth", 1, "train")
    assert (job.device, job.cpus, job.gpus, job.memory, job.time_limit) == ("cpu", 1, 0, 4 * 10**9, 3600)
    assert job.groups == ["/cms"]
    assert job.request == {"kind": "train", "workspace": "tth", **TRAIN}


def test_what_the_workers_machines_have_counts_once_they_are_known(site):
    """One machine has more CPUs, another GPUs; the server's own settings say nothing of either."""
    for name, cpus, memory, gpus in (("a", 2.5, 10**11, 0), ("b", 1, 10**12, 2)):
        workers.seen(site.engine, WorkerRecord(name, cpus, memory, gpus, True, time.time()))
    assert refused(site, cpus=3) == "cpus: the job asks for 3 CPUs, but the jobs of one machine may have 2.5 CPUs at most"
    assert refused(site, cpus=2, device="gpu") == "cpus: the job asks for more CPUs, memory and GPUs than any single machine has together"
    first = workers.known(site.engine, time.time())[0]
    workers.forget(site.engine, "a")
    assert refused(site, cpus=2) == "cpus: the job asks for 2 CPUs, but all jobs together may have 1 CPU at most"
    workers.seen(site.engine, first)
    assert site.submit("tth", cpus=2.5, **TRAIN).cpus == 2.5
    assert site.submit("tth", device="gpu", gpus=2, **TRAIN).gpus == 2


def test_published_submissions_name_the_model_like_the_process_and_give_numbers_as_text(site):
    job = site.submit("tth", published=True, memory="3gb", cpus="2", device="cpu", **TRAIN)
    assert (job.process_name, job.model, job.memory, job.cpus) == ("tth_1", "tth_1", 3 * 10**9, 2)
    assert site.submit("tth", published=True, **TRAIN).model == "tth_2"
    site.upload("n" * 100, FOLDER)
    with pytest.raises(WorkflowError, match="name: at most 88 characters"):
        site.submit("n" * 100, published=True, **TRAIN)


def test_the_task_names_what_the_workflow_needs(site):
    job = site.submit("tth", name="higgs", cpus=1.5, **TRAIN)
    job = jobs.move(site.engine, job.id, State.STARTING, expect={State.QUEUED}, attempt=1)
    task = task_of(job, site.settings, site.engine)
    folder, inputs = site.places.workspace(ANN.tenant, "tth", 1), site.places.job(job.id) / "input"
    assert task.argv[:2] == ["mlaas", "workflow"]
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in task.argv[2:])
    assert flags["fout"] == "model"
    assert flags["name"] == "higgs"
    del flags["fout"]
    workflow = from_flags(**flags)  # as the job itself reads it, from wherever it runs
    assert workflow.files == [f"{folder}/signal.root", f"{folder}/more/b*.root"]
    assert workflow.labels == [1, 0]
    assert workflow.model == folder / "model.py"
    assert (workflow.params.branch, workflow.params.epochs, workflow.params.workers) == ("events", 2, 2)
    assert workflow.preproc.flat_cut["njet"]
    assert task.readable == [folder]
    assert (task.id, task.cpus, task.memory, task.user) == (f"{job.id}-1", 1.5, job.memory, site.settings.job_uid_base + 1)
    written = {path.name: path.stat().st_mtime_ns for path in inputs.iterdir()}
    assert task_of(job, site.settings, site.engine) == task  # again after a crash: the same, and no file is written anew
    assert {path.name: path.stat().st_mtime_ns for path in inputs.iterdir()} == written
    again = jobs.move(site.engine, job.id, State.QUEUED, expect={State.STARTING})
    again = jobs.move(site.engine, again.id, State.STARTING, expect={State.QUEUED}, attempt=2)
    assert "--resume" in task_of(again, site.settings, site.engine).argv


def test_jobs_are_told_of_the_sites_proxy_and_files_keep_their_own_address(site):
    url = "root://server.example.org//store/b.root"
    asked = TRAIN | {"files": [url], "labels": [1]}
    job = jobs.move(site.engine, site.submit("tth", **asked).id, State.STARTING, expect={State.QUEUED}, attempt=1)
    assert task_of(job, site.settings, site.engine).environment == {}
    settings = site.settings.model_copy(update={"xrootd_proxy": "root://xrootd:1094", "job_environment": {"SITE": "here"}})
    assert task_of(job, settings, site.engine).environment == {"MLAAS_XROOTD_PROXY": "root://xrootd:1094", "SITE": "here"}
    assert (site.places.job(job.id) / "input" / "files.txt").read_text() == f"{url}\n"


def test_everything_may_be_given_in_the_request_itself(site):
    asked = {
        "files": ["signal.root", "root://server.example.org//store/b.root"], "labels": ["sig", "bkg"], "model": "./model.py",
        "params": {"branch": "events", "selected_branches": "branches.txt"}, "preproc": {}, "specs": {"jdim": {}}, "dtype": "root",
    }  # fmt: skip
    job = jobs.move(site.engine, site.submit("tth", **asked).id, State.STARTING, expect={State.QUEUED}, attempt=1)
    task = task_of(job, site.settings, site.engine)
    inputs = site.places.job(job.id) / "input"
    assert (inputs / "labels.txt").read_text() == "sig\nbkg\n"
    assert json.loads((inputs / "params.json").read_text())["selected_branches"] == ["met", "mva"]
    assert f"--specs={inputs}/specs.json" in task.argv
    assert "--dtype=root" in task.argv
    assert not [flag for flag in task.argv if "preproc" in flag]


def test_labels_may_be_a_branch_and_files_one_file(site):
    job = jobs.move(site.engine, site.submit("tth", **{**TRAIN, "files": "signal.root", "labels": "isSignal"}).id, State.STARTING,
                    expect={State.QUEUED}, attempt=1)  # fmt: skip
    assert "--labels=isSignal" in task_of(job, site.settings, site.engine).argv
    site.submit("tth", **{**TRAIN, "files": "signal.root,more/b1.root", "labels": "1, 0"})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"files": "file.txt"}, "files: the workspace 'tth' has no file 'file.txt' (did you mean 'files.txt'?)"),
        ({"files": ["signal.root", "bkg.root"]}, "files: the workspace 'tth' has no file 'bkg.root'"),
        ({"files": ["x*.root", "signal.root"]}, "files: no file of the workspace 'tth' matches x*.root"),
        ({"files": []}, "files: there are none"),
        ({"files": ["", "signal.root"]}, "files: '' is empty"),
        ({"files": ["signal.root\n--model=x", "signal.root"]}, "files: 'signal.root\\n--model=x' is empty or holds line ends"),
        ({"files": ["/etc/passwd", "signal.root"]}, "files: /etc/passwd is outside the workspace"),
        ({"files": ["file:///etc/passwd", "signal.root"]}, "files: /etc/passwd is outside the workspace"),
        ({"files": ["file://other/etc/passwd", "signal.root"]}, "files: file://other/etc/passwd names a file of another machine"),
        ({"files": ["../../bob/tth/1/signal.root", "signal.root"]}, "files: the workspace 'tth' has no file '../../bob/tth/1/signal.root'"),
        ({"files": ["../*/*", "signal.root"]}, "files: the workspace 'tth' has no file '../*/*'"),
        ({"files": ["~/signal.root", "signal.root"]}, "files: ~/signal.root: jobs have no home folder"),
        ({"files": ["ftp://server/x.root", "signal.root"]}, "files: ftp://server/x.root: ftp:// is not supported"),
        ({"files": ["root:///x.root", "signal.root"]}, "files: root:///x.root: the URL names no host"),
        ({"files": ["signal.root"]}, "labels: 2 labels for 1 files"),
        ({"labels": "lables.txt"}, "labels: the workspace 'tth' has no file 'lables.txt' (did you mean 'labels.txt'?)"),
        ({"labels": []}, "labels: there are none"),
        ({"labels": ["#1", "0"]}, "labels: #1 is no label"),
        ({"labels": ["a\nb", "0"]}, "labels: 'a\\nb' is empty or holds line ends"),
        ({"model": "modle.py"}, "model: the workspace 'tth' has no file 'modle.py' (did you mean 'model.py'?)"),
        ({"model": "/etc/hostname"}, "model: the workspace 'tth' has no file '/etc/hostname'"),
        ({"model": "../1/model.py"}, "model: the workspace 'tth' has no file '../1/model.py'"),
        ({"model": "params.json"}, "model: params.json does not define the function model(idim)"),
        ({"params": "param.json"}, "params: the workspace 'tth' has no file 'param.json' (did you mean 'params.json'?)"),
        ({"params": "files.txt"}, "params: files.txt is not JSON"),
        ({"params": "signal.root"}, "params: signal.root is not JSON"),
        ({"params": {"epoch": 1}}, "params.epoch: unknown parameter (did you mean 'epochs'?)"),
        ({"params": {"epochs": 0}}, "params.epochs: "),
        ({"params": {"split": float("nan")}}, "params: NaN and infinities are no JSON"),
        ({"params": {"device": "gpu"}}, "params.device: gpu, but the job asks for the device cpu"),
        ({"params": {"redirector": "nowhere"}}, "params.redirector: "),
        ({"params": {"file_weights": [1.0]}}, "params.file_weights: 1 weights for 2 files"),
        ({"preproc": {"flat_cut": {"njet": {"cut": "__import__('os')"}}}}, "preproc"),
        ({"memory": "17GB"}, "memory: the job asks for 17 GB of memory, but the group /cms may have 8 GB of memory at most"),
        ({"memory": "3"}, "memory: 3 bytes is too little for any job"),
        ({"cpus": 3.5}, "cpus: the job asks for 3.5 CPUs, but your jobs together may have 3 CPUs at most"),
        ({"device": "gpu"}, "device: this service has no GPUs for jobs"),
        ({"gpus": 1}, "gpus: the job asks for the device cpu"),
        ({"time_limit": 3601}, "time_limit: 3601 s is more than jobs may run here"),
        ({"time_limit": float("inf")}, "time_limit: inf s is more than jobs may run here"),
        ({"workspace": "other"}, "workspace: you have no workspace 'other'"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_it_is_queued(calm, changes, sentence):
    assert refused(calm, **changes).startswith(sentence)


def test_a_workspace_of_another_user_is_none(calm):
    with pytest.raises(WorkflowError, match="workspace: you have no workspace 'tth'"):
        calm.submit("tth", BOB, **TRAIN)


def test_text_files_that_are_none_or_huge_are_refused(site):
    site.upload("odd", {**FOLDER, "files.txt": b"\xff\xfe\x00", "labels.txt": b"1\n" * 10**7, "empty.txt": "# nothing\n"})
    for changes, sentence in (
        ({}, "files: files.txt is not a text file"),
        ({"files": "empty.txt"}, "files: empty.txt is empty"),
        ({"files": ["signal.root"]}, "labels: labels.txt is larger than 16 MB"),
    ):
        with pytest.raises(WorkflowError) as found:
            site.submit("odd", **{**TRAIN, **changes})
        assert str(found.value).startswith(sentence)


def test_the_redirector_of_the_site_goes_before_that_of_the_user(site):
    upload = Upload(site.places.workspace(ANN.tenant, "tth", 1), "tth")
    request = TrainRequest(workspace="tth", **{**TRAIN, "files": ["/store/user/a.root", "signal.root"]})
    found = documents.training(request, upload, Settings(redirector="root://proxy.example.org"), 1)
    assert found.params["redirector"] == "root://proxy.example.org"
    assert found.files[0] == "/store/user/a.root"


def test_files_of_the_site_are_allowed_where_it_says_so(site, tmp_path):
    data = tmp_path / "eos"
    (data / "run1").mkdir(parents=True)
    (data / "run1" / "a.root").write_bytes(b"root")
    (data / "run1" / "out.root").symlink_to("/etc/hostname")
    allowed = Allowed.of(None, Settings(local_data=[str(data)]))
    assert allowed.paths([f"{data}/run1/a.root", f"file://{data}/run1/a.root"]) == [f"{data}/run1/a.root"] * 2
    assert allowed.paths([f"{data}/*/a*.root"]) == [f"{data}/*/a*.root"]
    for entry, sentence in (
        (f"{data}/run1/b.root", "there is no file"),
        (f"{data}/../secret.root", "outside the workspace"),
        (f"{data}/run1/out.root", "a link that leaves"),
        ("a.root", "give a workspace"),
    ):
        with pytest.raises(WorkflowError, match=sentence):
            allowed.paths([entry])


def test_paths_of_the_published_servers_containers_mean_the_workspace(site):
    job = jobs.move(site.engine, site.submit("tth", **{**TRAIN, "files": ["/workarea/folder_test/signal.root"], "labels": ["1"]}).id,
                    State.STARTING, expect={State.QUEUED}, attempt=1)  # fmt: skip
    task_of(job, site.settings, site.engine)
    assert (site.places.job(job.id) / "input" / "files.txt").read_text() == f"{site.places.workspace(ANN.tenant, 'tth', 1)}/signal.root\n"


@given(st.text(max_size=60))
def test_no_name_of_a_file_leads_out_of_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "names"
    (root / "inside").mkdir(parents=True, exist_ok=True)
    (root / "secret").write_text("x")
    upload = Upload(root / "inside", "w")
    try:
        found = Allowed(upload, (), "root://x").paths([name])
    except WorkflowError:
        return
    assert all("://" in path or path.startswith("/") for path in found)
    assert not any(Path(path).exists() for path in found)


def test_names_are_made_normal():
    assert [normal(path) for path in ("./a.txt", "a//b.txt", "/workarea/folder_test/a.txt", "../a")] == ["a.txt", "a/b.txt", "a.txt", "../a"]


# ---- predictions


@pytest.fixture
def served(site, tmp_path):
    write_small_bundle(tmp_path / "bundle")
    for _ in range(2):
        Catalogue(site.places.repository).repository.publish(tmp_path / "bundle", ANN.tenant, "higgs")
    return site


def test_a_prediction_is_bound_to_the_version_that_it_found(served):
    job = served.submit("tth", kind="predict", model="higgs", files="files.txt")
    assert (job.model, job.process_name, job.workspace, job.kind) == ("higgs@2", "tth_1", "tth", "predict")
    other = served.submit(None, kind="predict", model="higgs@1", files=["root://server.example.org//a.root"])
    assert (other.model, other.process_name, other.workspace) == ("higgs@1", "higgs_1", None)
    job = jobs.move(served.engine, job.id, State.STARTING, expect={State.QUEUED}, attempt=1)
    task = task_of(job, served.settings, served.engine)
    copied = served.places.job(job.id) / "input" / "bundle"
    folder = served.places.workspace(ANN.tenant, "tth", 1)
    assert task.argv == ["mlaas", "predict", "--output=scores", "--format=root", "--trust", "--", str(copied),
                         f"{folder}/signal.root", f"{folder}/more/b*.root"]  # fmt: skip
    Catalogue(served.places.repository).repository.remove(ANN.tenant, "higgs")
    assert task_of(job, served.settings, served.engine) == task  # a model that is removed meanwhile does not matter


def test_a_shared_model_is_named_with_its_owner(served):
    catalogue = Catalogue(served.places.repository)
    with pytest.raises(WorkflowError, match="model: there is no model"):
        served.submit(None, BOB, kind="predict", model=f"{ANN.tenant}:higgs", files=["root://server.example.org//a.root"])
    catalogue.share(ANN.tenant, "higgs", "/bobs")
    bob = type(BOB)(BOB.tenant, "bob", BOB.issuer, groups=frozenset({"/bobs"}))
    job = served.submit(None, bob, kind="predict", model="higgs", files=["root://server.example.org//a.root"])
    assert job.model == f"{ANN.tenant}:higgs@2"
    own = served.submit(None, kind="predict", model="higgs", files=["root://server.example.org//a.root"])
    theirs, mine = (
        task_of(jobs.move(served.engine, each.id, State.STARTING, expect={State.QUEUED}, attempt=1), served.settings, served.engine)
        for each in (job, own)
    )
    assert "--trust" in theirs.argv  # it has no ONNX form
    assert theirs.cache == served.places.job(job.id) / "cache", "what their code leaves must not meet the next job"
    assert mine.cache == served.places.cache(ANN.tenant)


def test_predictions_that_cannot_run_are_refused(served):
    for changes, sentence in (
        ({"model": "nothing"}, "model: there is no model 'nothing' that you may use"),
        ({"files": "signal.root", "workspace": None}, "files: signal.root: give a workspace"),
        ({"files": ["root://server.example.org//" + "x" * 300 + ".root"] * 4000}, "files: the names of 4,000 files are too long"),
    ):
        with pytest.raises(WorkflowError) as found:
            served.submit(**{"workspace": "tth", "kind": "predict", "model": "higgs", "files": ["signal.root"], **changes})
        assert str(found.value).startswith(sentence)


def test_a_model_without_features_takes_no_raw_events(site, tmp_path):
    write_small_bundle(tmp_path / "bundle", features=False)
    Catalogue(site.places.repository).repository.publish(tmp_path / "bundle", ANN.tenant, "plain")
    with pytest.raises(WorkflowError, match="model: plain was not trained here"):
        site.submit("tth", kind="predict", model="plain", files=["signal.root"])


def test_what_an_older_service_accepted_is_told(site):
    job = site.submit("tth", **TRAIN)
    jobs.update(
        site.engine, job.id, request={"kind": "train", "workspace": "tth", "files": "files.txt", "labels": "1", "model": "m", "colour": "red"}
    )
    with pytest.raises(WorkflowError, match="colour: "):
        request_of(site.job(job))


@given(st.builds(TrainRequest, workspace=st.just("w"), files=st.text() | st.lists(st.text()), labels=st.text() | st.lists(st.integers()),
                 model=st.text(), memory=st.just("3gb") | st.none()))  # fmt: skip
def test_requests_come_back_from_the_store_as_they_were(request_):
    stored = json.loads(json.dumps(request_.model_dump(mode="json", exclude_unset=True) | {"kind": request_.kind}))
    assert REQUEST.validate_python(stored) == request_


def test_kinds_are_told_apart():
    assert isinstance(REQUEST.validate_python({"workspace": "w", "files": "f", "labels": "l", "model": "m"}), TrainRequest)
    assert isinstance(REQUEST.validate_python({"kind": "predict", "files": "f", "model": "m"}), PredictRequest)


def test_a_workspace_that_goes_meanwhile_ends_the_job_with_a_sentence(site):
    job = jobs.move(site.engine, site.submit("tth", **TRAIN).id, State.STARTING, expect={State.QUEUED}, attempt=1)
    folder = site.places.workspace(ANN.tenant, "tth", 1)
    folder.rename(folder.with_name("9"))
    with pytest.raises(Exception, match="the workspace 'tth' of this job is gone"):
        task_of(job, site.settings, site.engine)
    assert workspaces.current(site.engine, ANN.tenant, "tth") is not None


# ---- the model file


@pytest.mark.parametrize(
    "source",
    [
        "def model(idim): ...",
        "def model(*args): ...",
        "def model(idim, depth=3): ...",
        "model = lambda idim: None",
        "from net import model",
        "from net import build as model",
        "from net import *",
        "class model:\n    pass",
        "try:\n    import torch\n    def model(idim): ...\nexcept ImportError:\n    def model(idim): ...",
        "if True:\n    a = 1\nelse:\n    (model, b) = 1, 2",
        "with open('x') as model: pass",
        "for model in []: pass",
        "@cache\ndef model(): ...",
        "match 1:\n    case 1:\n        model = 2",
        "# -*- coding: latin-1 -*-\n# \xe9\ndef model(idim): ...",
    ],
)
def test_model_files_that_define_model_in_any_way_pass(source):
    modelfile.check(source.encode("latin-1"), "net.py")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"def model(idim) return None", "net.py, line 1: not Python: expected ':'"),
        (b"def modle(idim): ...", "net.py does not define the function model(idim) (did you mean 'modle'?)"),
        (b"def outer():\n    def model(idim): ...", "net.py does not define the function model(idim)"),
        (b"\n\ndef model(): ...", "net.py, line 3: model must take exactly one argument"),
        (b"def model(a, b): ...", "net.py, line 1: model must take exactly one argument"),
        (b"def model(a, *, b): ...", "net.py, line 1: model must take exactly one argument"),
        (b"", "net.py does not define the function model(idim)"),
        (b"\0", "net.py"),
        (b"\xff\xfe", "net.py"),
        (b"-" * 200_000 + b"1", "net.py"),
        (b"(" * 100_000, "net.py"),
        (b"a." * 100_000 + b"b", "net.py"),
        (b"x" * (10**6 + 1), "net.py is larger than 1 MB"),
    ],
)
def test_model_files_that_cannot_work_are_refused_and_never_run(source, sentence):
    with pytest.raises(WorkflowError) as found:
        modelfile.check(source, "net.py")
    assert str(found.value).startswith(f"model: {sentence}")


def test_the_model_file_is_not_run(tmp_path):
    modelfile.check(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\ndef model(idim): ...".encode(), "net.py")
    assert not (tmp_path / "ran").exists()


def test_the_parser_knows_the_arguments():
    found = modelparser.parsed(b"def f(a, b=1, *c, d, e=2): ...\nclass K: ...\nx = y = 1\nimport a.b, c as d")
    assert found["names"] == {"f": [1, 2, 1, 1, 1], "K": None, "x": None, "y": None, "a": None, "d": None}
