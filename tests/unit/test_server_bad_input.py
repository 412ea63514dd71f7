"""Bad input: each gets the right status and one sentence, in the form of its interface, and leaves nothing on the disk."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from fastapi import FastAPI

from mlaas.jobs.states import State
from tests.support import server
from tests.support.server import ALICE, FOLDER, TRAINING

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def app(tmp_path) -> FastAPI:
    return server.application(tmp_path, upload_limit=10**6, unpacked_limit=5 * 10**6, unpacked_files=50)


@pytest.fixture
def alice(app):
    return server.client(app, ALICE)


def one_sentence(text: str) -> None:
    assert text.strip()
    assert "Traceback" not in text
    assert 'File "' not in text
    assert len(text) < 500


def problem(answer, *statuses: int) -> dict:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    one_sentence(answer.json()["detail"])
    return answer.json()


def nothing_left(data: Path) -> None:
    assert server.leftovers(data) == []
    assert [path for path in (data / "data" / "workspaces").rglob("*") if path.is_file()] == []


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


def zipped(name: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return packed.getvalue()


ARCHIVES = {
    "traversal": tar((entry("f/../../evil"), b"x")),
    "absolute": tar((entry("/etc/evil"), b"x")),
    "symlink": tar((entry("f/link", tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "hardlink": tar((entry("f/a"), b"x"), (entry("f/link", tarfile.LNKTYPE, "f/a"), b"")),
    "device": tar((entry("f/null", tarfile.CHRTYPE), b"")),
    "fifo": tar((entry("f/pipe", tarfile.FIFOTYPE), b"")),
    "bomb": tar((entry("f/zeros"), bytes(6 * 10**6))),
    "too many files": tar(*((entry(f"f/{number}"), b"") for number in range(60))),
    "zip traversal": zipped("../evil", b"x"),
    "zip bomb": zipped("zeros", bytes(6 * 10**6)),
    "control characters": tar((entry("f/a\nb"), b"x")),
    "no archive": b"this is no archive",
    "no archive in gzip": gzip.compress(b"this is no archive"),
    "cut off": server.archive({"big": os.urandom(50_000)})[:20_000],
    "empty": b"",
    "no files": tar(),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(alice, tmp_path, name):
    answer = alice.post("/api/v1/workspaces?name=x", files={"file": ("x.tar.gz", ARCHIVES[name])})
    problem(answer, 400, 413, 422)
    nothing_left(tmp_path)
    published = alice.post("/upload?name=x", files={"file": ("x.tar.gz", ARCHIVES[name])})
    assert published.status_code == answer.status_code
    assert published.headers["content-type"].startswith("text/plain")
    one_sentence(published.text)
    nothing_left(tmp_path)
    assert alice.get("/api/v1/workspaces").json()["items"] == []


NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "../x",
    ".hidden",
    "-dash",
    "x" * 101,
    "x" * 300,
    "a b",
    "a\x00b",
    "a\nb",
    "ünicode",
    "a\u202eb",
    "a\\b",
    "con:",
    "a%2fb",
]


@pytest.mark.parametrize("name", NAMES)
def test_names(alice, tmp_path, name):
    archive = server.archive(FOLDER)
    problem(alice.post("/api/v1/workspaces", params={"name": name}, files={"file": ("x.tar.gz", archive)}), 422)
    assert alice.post("/upload", params={"name": name}, files={"file": ("x.tar.gz", archive)}).status_code == (422 if name else 400)
    assert problem(alice.post("/api/v1/jobs", json=TRAINING | {"workspace": name}), 422)["field"] == "workspace"
    assert problem(alice.post("/api/v1/jobs", json=TRAINING | {"name": name}), 422)["field"] == "name"
    nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"no form at all", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"--x--\r\n", {"Content-Type": "multipart/form-data"}, 400),
        (b"--x--\r\n", {"Content-Type": f"multipart/form-data; boundary={'x' * 300}"}, 400),
        (b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--x--\r\n', {"Content-Type": "multipart/form-data; boundary=x"}, 422),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nx', {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (
            2 * b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n' + b"--x--\r\n",
            {"Content-Type": "multipart/form-data; boundary=x"},
            422,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; a="' + b"a" * 9000 + b'"\r\n\r\nx\r\n--x--\r\n',
            {"Content-Type": "multipart/form-data; boundary=x"},
            400,
        ),
        (bytes(1_100_000), {"Content-Type": "application/gzip"}, 413),
        (bytes(3 * 10**6), {"Content-Type": "application/gzip"}, 413),
    ],
)
def test_forms(alice, tmp_path, body, headers, status):
    problem(alice.post("/api/v1/workspaces?name=x", content=body, headers=headers), status)
    assert alice.post("/upload?name=x", content=body, headers=headers).status_code == status
    nothing_left(tmp_path)


def test_a_body_without_length_is_limited(alice, tmp_path):
    problem(alice.put("/api/v1/workspaces/x", content=(bytes(10**5) for _ in range(30))), 413)
    nothing_left(tmp_path)


@pytest.mark.parametrize("call", ["/api/v1/jobs", "/submit"])
def test_nothing_of_a_body_is_kept_for_who_is_not_known(app, call):
    asked = []

    async def receive():
        asked.append(True)
        return {"type": "http.request", "body": b" " * 1000, "more_body": len(asked) < 1000}

    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer nonsense")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "POST",
        "path": call,
        "raw_path": call.encode(),
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(app(scope | {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1"}, receive, send))
    assert (sent[0]["status"], asked) == (401, [])


def test_a_full_disk(tmp_path):
    alice = server.client(server.application(tmp_path, free_disk=10**18), ALICE)
    problem(alice.post("/api/v1/workspaces?name=x", files={"file": ("x.tar.gz", server.archive(FOLDER))}), 507)
    nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("body", "headers", "statuses"),
    [
        (b"{", JSON, {400}),
        (b"", JSON, {400, 422}),
        (b"\xff\xfe", JSON, {400}),
        (b"[]", JSON, {422}),
        (b"null", JSON, {422}),
        (b'"text"', JSON, {422}),
        (b"NaN", JSON, {400}),
        (b'{"workspace": NaN}', JSON, {400}),
        (b"[" * 100_000, JSON, {400}),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, JSON, {400, 422}),
        (json.dumps(TRAINING).encode(), {"Content-Type": "text/plain"}, {415}),
        (json.dumps(TRAINING).encode(), {"Content-Type": "application/x-www-form-urlencoded"}, {415}),
        (json.dumps(TRAINING).encode(), {}, {415}),
        (b" " * 11_000_000, JSON, {413}),
    ],
)
@pytest.mark.parametrize("call", ["/api/v1/jobs", "/submit"])
def test_json(alice, call, body, headers, statuses):
    server.upload(alice)
    answer = alice.post(call, content=body, headers=headers)
    assert answer.status_code in statuses, answer.text
    if call == "/submit" and answer.status_code != 413:
        one_sentence(answer.json()["error"])
    else:
        problem(answer, *statuses)
    assert alice.get("/api/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"workspace": None}, "workspace"),
        ({"workspace": 3}, "workspace"),
        ({"workspace": "none"}, "workspace"),
        ({"files": None}, "files"),
        ({"files": "none.txt"}, "files"),
        ({"files": ["../../../etc/passwd"]}, "files"),
        ({"files": ["/etc/passwd"]}, "files"),
        ({"files": []}, "files"),
        ({"labels": [1]}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"model": "none.py"}, "model"),
        ({"model": "params.json"}, "model"),
        ({"model": "../../model.py"}, "model"),
        ({"params": "none.json"}, "params"),
        ({"params": "model.py"}, "params"),
        ({"params": {"epochs": -1}}, "params.epochs"),
        ({"params": {"epochs": "many"}}, "params.epochs"),
        ({"params": {"epoch": 3}}, "params.epoch"),
        ({"preproc": {"flat_cut": {"x": {"cut": "import os"}}}}, "preproc"),
        ({"memory": "lots"}, "memory"),
        ({"memory": -5}, "memory"),
        ({"memory": "1e9"}, "memory"),
        ({"memory": "900TB"}, "memory"),
        ({"cpus": "two"}, "cpus"),
        ({"cpus": 0}, "cpus"),
        ({"cpus": 1e9}, "cpus"),
        ({"cpus": "nan"}, "cpus"),
        ({"device": "tpu"}, "device"),
        ({"device": "gpu"}, "device"),
        ({"gpus": 1}, "gpus"),
        ({"time_limit": 0}, "time_limit"),
        ({"time_limit": 1e12}, "time_limit"),
        ({"dtype": "hdf5"}, "dtype"),
        ({"kind": "other"}, "kind"),
        ({"colour": "red"}, "colour"),
        ({"kind": "predict", "model": "none"}, "labels"),
        ({"name": "../x"}, "name"),
    ],
    ids=str,
)
def test_submissions(alice, change, field):
    server.upload(alice)
    document = {name: value for name, value in (TRAINING | change).items() if value is not None}
    found = problem(alice.post("/api/v1/jobs", json=document), 422)
    assert found.get("field", "").startswith(field), found
    assert field.split(".")[-1] in found["detail"]
    assert alice.get("/api/v1/jobs").json()["items"] == []


def test_predictions_of_files_need_a_model(alice):
    found = problem(alice.post("/api/v1/jobs", json={"kind": "predict", "model": "none", "files": ["root://host//f.root"]}), 422)
    assert found["field"] == "model"


@pytest.mark.parametrize("header", ["é", "x" * 300, "a b"])
def test_idempotency_keys(alice, header):
    server.upload(alice)
    problem(alice.post("/api/v1/jobs", json=TRAINING, headers={b"Idempotency-Key": header.encode()}), 422)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "Bearer", "é", "x" * 20_000, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."])
def test_tokens(app, token):
    answer = server.client(app, None).get("/api/v1/jobs", headers={b"Authorization": f"Bearer {token}".encode()})
    problem(answer, 401)
    assert "WWW-Authenticate" in answer.headers
    if len(token) > 3:
        assert token not in answer.text
    published = server.client(app, None).get("/status_docker?process_name=a_1", headers={b"Authorization": f"Bearer {token}".encode()})
    assert published.status_code == 401
    one_sentence(published.json()["error"])


@pytest.mark.parametrize("name", ["a\x00b", "x" * 400, "../../x", "a/b", "é"])
def test_names_in_addresses(alice, name):
    for path in ("jobs", "models", "workspaces"):
        quoted = "".join(f"%{byte:02x}" for byte in name.encode())
        answer = alice.get(f"/api/v1/{path}/{quoted}")
        assert answer.status_code in {404, 422}, answer.text
        problem(answer, 404, 422)


def test_a_failing_part_tells_no_secrets(alice, app, monkeypatch):
    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("secret-password at /some/path")

    monkeypatch.setattr("mlaas.store.jobs.listing", broken)
    found = problem(alice.get("/api/v1/jobs"), 500)
    assert "secret" not in json.dumps(found)
    monkeypatch.setattr("mlaas.server.jobs.find", broken)
    answer = alice.get("/status_docker?process_name=a_1")
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_files_for_a_model_that_is_none(alice, app, tmp_path):
    job = server.job(app.state.context, state=State.RUNNING)
    answer = alice.post(f"/setup_tfaas?process_name={job.process_name}", files={"file": ("params.json", b"{}")})
    assert answer.status_code == 404
    assert "not ready" in answer.text
    assert alice.post("/setup_tfaas?process_name=none_1", files={"file": ("params.json", b"{}")}).status_code == 404
    nothing_left(tmp_path)
