"""The published calls of the MLaaS4HEP server: their exact texts and forms, and what was added to them."""

from __future__ import annotations

import json
import tarfile
import time
from io import BytesIO

import pytest

from mlaas.jobs.states import State
from mlaas.models.bundle import Bundle, read_bundle, verify_files, write_bundle
from mlaas.web import identify
from tests.support import server, trained
from tests.support.server import ALICE, BOB

SUBMISSION = {
    "name": "luca",
    "device": "cpu",
    "memory": "3gb",
    "cpus": "1",
    "files": "files.txt",
    "labels": "labels.txt",
    "model": "model.py",
    "params": "params.json",
}


@pytest.fixture
def app(tmp_path):
    return server.application(tmp_path)


@pytest.fixture
def parts(app):
    return app.state.context


@pytest.fixture
def alice(app):
    return server.client(app, ALICE)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "m"
    write_bundle(folder, trained.logistic(), trained.DOCUMENTS)
    return read_bundle(folder)


@pytest.fixture
def luca(parts, bundle):
    """A process luca_1 that has published its model."""
    parts.catalogue.repository.publish(bundle, ALICE.tenant, "luca_1")
    return server.job(parts, state=State.SUCCEEDED, process="luca", version=1)


def uploaded(http, name: str = "luca", **files):
    return http.post(f"/upload?name={name}", files=files or {"file": ("folder_to_upload.tar.gz", server.archive(server.FOLDER))})


def test_upload_and_submit(alice, parts):
    answer = uploaded(alice)
    assert (answer.status_code, answer.text) == (200, "Successfully uploaded!\n")
    answer = alice.post("/submit", json=SUBMISSION)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["process_name"] == "luca_1"
    assert isinstance(document["job_id"], int)
    assert answer.text == json.dumps(document, indent=True)
    assert list(document) == ["process_name", "job_id"]
    assert alice.post("/submit", json=SUBMISSION).json()["process_name"] == "luca_2"
    job = alice.get("/api/v1/jobs/luca_1").json()
    assert (job["model"], job["memory"], job["cpus"], job["state"]) == ("luca_1", 3 * 10**9, 1.0, "queued")
    answer = alice.get("/status_docker?process_name=luca_1")
    assert answer.text == json.dumps({"process_name": "luca_1", "status": "Created"}, indent=True)


def test_the_document_may_hold_preproc_and_the_parameters_themselves(alice):
    uploaded(alice)
    more = {"params": {"branch": "events", "epochs": 2}, "preproc": {"flat_cut": {"njet": {"cut": "njet >= 2", "remove": "False"}}}}
    assert alice.post("/submit", json=SUBMISSION | more).status_code == 200


@pytest.mark.parametrize(
    ("state", "columns", "text"),
    [
        (State.RUNNING, {"started": -8.5}, "Up 8 seconds"),
        (State.PUBLISHING, {"started": -61}, "Up About a minute"),
        (State.SUCCEEDED, {"started": -300, "finished": -125, "exit_code": 0}, "Exited (0) 2 minutes ago"),
        (State.FAILED, {"started": -300, "finished": -3700, "exit_code": 2}, "Exited (2) About an hour ago"),
        (State.CANCELLED, {"finished": -1.5}, "Exited (143) 1 second ago"),
    ],
)
def test_status_in_dockers_words(alice, parts, state, columns, text):
    times = {name: value + time.time() if name in {"started", "finished"} else value for name, value in columns.items()}
    job = server.job(parts, state=state, process="luca", **times)
    assert alice.get(f"/status_docker?process_name={job.process_name}").json() == {"process_name": "luca_1", "status": text}


def test_logs_are_a_file(alice, parts):
    job = server.job(parts, state=State.RUNNING, process="luca")
    assert alice.get("/logs?process_name=luca_1").status_code == 200
    (parts.places.job(job.id) / "log.txt").write_text("line\n")
    for before, after in ((State.RUNNING, State.PUBLISHING), (State.PUBLISHING, State.SUCCEEDED)):
        server.jobs.move(parts.engine, job.id, after, expect=[before])
        answer = alice.get("/logs?process_name=luca_1")
        assert answer.text == "line\n"
        assert answer.headers["content-disposition"] == 'attachment; filename="luca_1.txt"'


def test_the_model_has_its_files_at_the_top(alice, luca, tmp_path):
    answer = alice.get("/model?process_name=luca_1")
    assert answer.headers["content-disposition"] == 'attachment; filename="luca_1.tar.gz"'
    with tarfile.open(fileobj=BytesIO(answer.content)) as packed:
        packed.extractall(tmp_path / "luca_1", filter="data")
    assert json.loads((tmp_path / "luca_1" / "params.json").read_text())["name"] == "luca_1"
    assert read_bundle(tmp_path / "luca_1").manifest.version == 1
    assert server.leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("state", "sentence"),
    [(State.QUEUED, "not ready yet"), (State.RUNNING, "not ready yet"), (State.FAILED, "left no model"), (State.CANCELLED, "left no model")],
)
def test_a_model_that_is_not_there(alice, parts, state, sentence):
    server.job(parts, state=state, process="luca")
    answer = alice.get("/model?process_name=luca_1")
    assert answer.status_code == 404
    assert sentence in answer.text
    assert answer.text.count("\n") == 1


def test_a_model_that_was_deleted(alice, luca):
    assert alice.delete("/api/v1/models/luca_1").status_code == 204
    answer = alice.get("/model?process_name=luca_1")
    assert (answer.status_code, "deleted" in answer.text) == (404, True)


def attached(http, name: str, data: bytes):
    return http.post("/setup_tfaas?process_name=luca_1", files={"file": (name, data)})


def test_files_are_added_to_a_model_as_its_next_version(alice, parts, luca, tmp_path):
    assert attached(alice, "labels.txt", b"other\nhiggs\n").text == "Successfully uploaded!\n"
    assert attached(alice, "params.json", json.dumps({"description": "mine", "name": "x", "mine": 1}).encode()).status_code == 200
    assert attached(alice, "note.pdf", b"%PDF").status_code == 200
    found = parts.catalogue.repository.open(ALICE.tenant, "luca_1")
    verify_files(found.path, found.manifest)
    assert (found.manifest.version, found.manifest.classes, found.manifest.job) == (4, ["other", "higgs"], "")
    assert found.text("labels.txt") == "other\nhiggs\n"
    params = found.json("params.json")
    assert (params["description"], params["name"], params["mine"], params["model"]) == ("mine", "luca_1", 1, "model.onnx")
    assert (found.path / "attachments" / "note.pdf").read_bytes() == b"%PDF"
    first = parts.catalogue.repository.open(ALICE.tenant, "luca_1", 1)
    assert first.manifest.classes != ["other", "higgs"]
    with tarfile.open(fileobj=BytesIO(alice.get("/model?process_name=luca_1").content)) as packed:
        assert "attachments/note.pdf" in packed.getnames()
    assert server.leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("params.json", b"{"),
        ("params.json", b"[]"),
        ("params.json", b"[" * 100_000),
        ("params.json", b'{"model": "other.pb"}'),
        ("params.json", b'{"inputNode": "other"}'),
        ("labels.txt", b"one\n"),
        ("labels.txt", b"one\none\n"),
        ("labels.txt", b"a\nb\nc\n"),
        ("labels.txt", b"\xff\xfe\n\xff"),
        ("model.onnx", b"x"),
        ("manifest.json ", b"{}"),
        (".hidden.json", b"{}"),
        ("../params.json", b"{}"),
        ("a/b.json", b"{}"),
        ("x" * 200 + ".json", b"{}"),
        ("run.sh", b"x"),
    ],
)
def test_files_that_a_model_does_not_take(alice, parts, luca, tmp_path, name, data):
    answer = attached(alice, name, data)
    assert answer.status_code == 422, answer.text
    assert answer.text.count("\n") == 1
    assert parts.catalogue.repository.versions(ALICE.tenant, "luca_1") == [1]
    assert server.leftovers(tmp_path) == []


def test_another_version_needs_room(alice, parts, luca, tmp_path):
    parts.settings.user_disk = 1000
    answer = attached(alice, "note.txt", b"x")
    assert (answer.status_code, "1 kB" in answer.text) == (507, True)
    assert parts.catalogue.repository.versions(ALICE.tenant, "luca_1") == [1]
    assert server.leftovers(tmp_path) == []


def test_a_file_that_is_too_large_for_a_model(alice, parts, luca, tmp_path):
    assert attached(alice, "note.txt", bytes(17 * 10**6)).status_code == 413
    assert parts.catalogue.repository.versions(ALICE.tenant, "luca_1") == [1]
    assert server.leftovers(tmp_path) == []


def test_deletions(alice, parts):
    uploaded(alice, file=("f.tar.gz", server.archive(server.FOLDER | {"specs-s.json": "{}"})))
    answer = alice.get("/delete_specs?name=luca")
    assert (answer.status_code, answer.text) == (200, "Specs deletion completed!\n")
    assert "specs-s.json" not in [file["path"] for file in alice.get("/api/v1/workspaces/luca/files").json()["items"]]
    answer = alice.get("/delete_folder?name=luca")
    assert (answer.status_code, answer.text) == (200, "Folder deletion completed!\n")
    for call in ("delete_specs", "delete_folder"):
        assert alice.get(f"/{call}?name=luca").status_code == 404


def test_a_browser_cannot_be_made_to_delete(app, alice):
    uploaded(alice)
    cookie = app.state.authenticator.seal(ALICE)
    browser = server.client(app, None, cookies={identify.COOKIE: cookie})
    assert browser.get("/api/v1/me").json()["tenant"] == ALICE.tenant
    for call in ("delete_specs", "delete_folder"):
        answer = browser.get(f"/{call}?name=luca", headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 403
        assert "token" in answer.text
    passed_on = {identify.FORWARDED: app.state.authenticator.internal_token(ALICE)}
    assert server.client(app, None).get("/delete_folder?name=luca", headers=passed_on).status_code == 403
    for site in ("none", "cross-site", "same-site"):  # a link, and the gateway's token for the browser's session
        assert alice.get("/delete_folder?name=luca", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert alice.get("/api/v1/workspaces/luca").status_code == 200


def test_processes_and_folders_of_others_are_not_there(app, alice, parts, luca):
    uploaded(alice)
    bob = server.client(app, BOB)
    for call in ("status_docker", "logs", "model"):
        theirs, nobodys = (bob.get(f"/{call}?process_name={name}") for name in ("luca_1", "none_1"))
        assert (theirs.status_code, theirs.text.replace("luca", "none")) == (404, nobodys.text)
    assert bob.post("/setup_tfaas?process_name=luca_1", files={"file": ("labels.txt", b"a\nb\n")}).status_code == 404
    assert bob.get("/delete_folder?name=luca").status_code == 404
    assert "name:" in bob.post("/submit", json=SUBMISSION).json()["error"]


def test_what_is_missing_is_told(alice):
    answer = alice.post("/upload", files={"file": ("f.tar.gz", server.archive(server.FOLDER))})
    assert (answer.status_code, answer.text) == (400, "No name was provided\n")
    answer = alice.post("/upload?name=luca", data={"other": "x"}, files={"more": ("f", b"x")})
    assert (answer.status_code, answer.text) == (422, "the form has no file 'file'\n")
    for field in ("name", "files", "labels", "model", "params"):
        answer = alice.post("/submit", json={name: value for name, value in SUBMISSION.items() if name != field})
        assert (answer.status_code, answer.json()) == (422, {"error": f"{field}: is missing"})
    assert alice.get("/status_docker").json() == {"error": "process_name: is missing"}
    assert alice.get("/logs").text == "process_name: is missing\n"


def test_hello_needs_no_token_and_the_rest_does(app):
    anonymous = server.client(app, None)
    assert anonymous.get("/hello").text == "Hello World\n"
    for method, call in (("POST", "upload?name=x"), ("POST", "submit"), ("GET", "status_docker?process_name=x"), ("GET", "delete_folder?name=x")):
        answer = anonymous.request(method, f"/{call}", json=SUBMISSION)
        assert answer.status_code == 401, call
        assert "WWW-Authenticate" in answer.headers
