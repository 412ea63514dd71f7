"""The server's application in this process, with callers that have real tokens."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from mlaas.auth.identity import Identity
from mlaas.jobs.states import State
from mlaas.server.app import create
from mlaas.server.deps import Context, note
from mlaas.settings import Settings
from mlaas.store import jobs
from mlaas.store.records import JobRecord, NewJob

ALICE = Identity(tenant="alice-0123456789", subject="alice", issuer="https://op.example.org", name="Alice", groups=frozenset({"/cms", "/cms/higgs"}))
BOB = Identity(tenant="bob-0123456789", subject="bob", issuer="https://op.example.org", name="Bob", groups=frozenset({"/atlas"}))
CAROL = Identity(tenant="carol-0123456789", subject="carol", issuer="https://op.example.org", name="Carol", roles=frozenset({"user", "admin"}))
MODEL = "def model(idim):\n    from sklearn.linear_model import LogisticRegression\n\n    return LogisticRegression()\n"
FOLDER = {
    "files.txt": "s.root\nb.root\n",
    "labels.txt": "1\n0\n",
    "model.py": MODEL,
    "params.json": '{"branch": "events"}',
    "s.root": b"x",
    "b.root": b"y",
}
"""A folder that a training can be submitted from; its data are none."""
TRAINING = {"workspace": "tth", "files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json"}


def application(data: Path, **settings: Any) -> FastAPI:
    """The application on a data folder."""
    return create(Settings(data=data / "data", **{"free_disk": 0, **settings}))


def client(app: FastAPI, identity: Identity | None, **options: Any) -> TestClient:
    """A client that sends a token of somebody; None sends none."""
    headers = {"Authorization": f"Bearer {app.state.authenticator.internal_token(identity)}"} if identity else {}
    return TestClient(app, headers=headers, raise_server_exceptions=False, **options)


def archive(files: Mapping[str, str | bytes], *, top: str = "folder") -> bytes:
    """A .tar.gz of a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(f"{top}/{name}" if top else name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def upload(http: TestClient, name: str = "tth", files: Mapping[str, str | bytes] = FOLDER) -> dict[str, Any]:
    """Upload a folder."""
    answer = http.post("/api/v1/workspaces", params={"name": name}, files={"file": ("folder.tar.gz", archive(files))})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def job(parts: Context, identity: Identity = ALICE, state: State = State.QUEUED, *, process: str = "tth", **columns: Any) -> JobRecord:
    """A job in a state, with the folder that a job of that state has."""
    note(parts, identity)
    new = NewJob(identity.tenant, process, "train", {"workspace": process}, 1.0, 10**9, 60.0, model=columns.pop("model", ""))
    record, _ = jobs.create(parts.engine, new, now=time.time())
    steps = {
        State.QUEUED: [],
        State.CANCELLED: [State.CANCELLED],
        State.FAILED: [State.FAILED],
        State.STARTING: [State.STARTING],
        State.RUNNING: [State.STARTING, State.RUNNING],
        State.PUBLISHING: [State.STARTING, State.RUNNING, State.PUBLISHING],
        State.SUCCEEDED: [State.STARTING, State.RUNNING, State.PUBLISHING, State.SUCCEEDED],
        State.TIMED_OUT: [State.STARTING, State.RUNNING, State.TIMED_OUT],
    }[state]
    for before, after in zip([State.QUEUED, *steps], steps, strict=False):
        moved = jobs.move(parts.engine, record.id, after, expect=[before])
        assert moved is not None
    times: dict[str, Any] = {"started": time.time()} if state not in {State.QUEUED, State.STARTING} else {}
    times |= {"finished": time.time()} if state in {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT} else {}
    parts.places.job(record.id).mkdir(parents=True)
    changes = times | columns
    found = jobs.update(parts.engine, record.id, **changes) if changes else jobs.get(parts.engine, record.id)
    assert found is not None
    return found


def leftovers(data: Path) -> list[Path]:
    """What uploads have left in their folder."""
    return list((data / "data" / "uploads").glob("*"))
