"""The store, the folders and the worker of a service, without its server: for tests of what the worker does."""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from mlaas.auth.identity import Identity
from mlaas.jobs.requests import PredictRequest, TrainRequest
from mlaas.jobs.states import ENDED, State
from mlaas.jobs.submission import admit
from mlaas.models.bundle import finish
from mlaas.models.manifest import Manifest, NativeRecord, OnnxRecord, now
from mlaas.models.repository import Repository
from mlaas.models.tfaas import labels_text, params_text
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import JobRecord, jobs, tenants, workspaces
from mlaas.store.database import connect, migrate

ANN = Identity("ann-0123456789", "ann", "https://op.example.org", groups=frozenset({"/cms"}))
BOB = Identity("bob-0123456789", "bob", "https://op.example.org")
PATIENCE = 180  # s; only a test that fails waits so long
QUICK = {"files": ["a.root"], "labels": ["1"], "model": "model.py"}
"""A training whose model.py never gets to any training."""
WORK = "from mlaas.jobs.worker import run; from mlaas.settings import settings; raise SystemExit(run(settings()))"


def write_small_bundle(folder: Path, *, features: bool = True) -> Path:
    """A bundle that is whole but was never a model: quick to make, good for all that does not predict with it."""
    folder.mkdir(parents=True)
    record = NativeRecord(form="model.skops", files=["model.skops"])
    draft = Manifest.model_construct(
        name="small", version=1, created=now(), framework="sklearn", task="classification", classes=["0", "1"], output="classes", width=2, mask=False,
        engine="native", onnx=OnnxRecord(accepted=False, tolerance=1e-5), native=record, files={}, versions={}, provenance={},
    )  # fmt: skip
    texts = {"model.skops": "no model", "model.py": "", "params.json": params_text(draft, ""), "labels.txt": labels_text(draft)}
    texts |= {"metrics.json": '{"metrics": {"test": {"auc": 0.9}}}', "metrics.jsonl": '{"kind": "epoch", "epoch": 1}\n'}
    for name, text in (texts | ({"features.json": "{}"} if features else {})).items():
        (folder / name).write_text(text)
    finish(folder, draft)
    return folder


class Site:
    """A data folder with a database, workspaces of two users, and a worker that can be started and killed."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        given = {
            "free_disk": 10**6,
            "total_cpus": 8,
            "total_memory": 10**12,
            "user_jobs": 8,
            "job_time_limit": 600,
            "job_retries": 1,
            "log_format": "text",
            # two services of one machine with the same users would end each other's processes
            "job_uid_base": 10**6 + 1000 * secrets.randbelow(10**6),
        }
        self.settings = Settings(data=folder / "data", **{**given, **settings})
        self.places = Places.of(self.settings)
        self.engine = connect(self.settings)
        migrate(self.engine)
        self.folder = folder
        self.worker: subprocess.Popen[bytes] | None = None
        for who in (ANN, BOB):
            tenants.seen(self.engine, who.tenant, issuer=who.issuer, subject=who.subject, groups=who.groups, now=time.time())

    def beside(self, name: str, **settings: Any) -> Site:
        """The same site with a worker of its own, of this name and with these settings; it has a log of its own."""
        made = copy.copy(self)
        made.settings, made.folder, made.worker = self.settings.model_copy(update={"worker_name": name, **settings}), self.folder / f"at-{name}", None
        made.folder.mkdir()
        return made

    # ---- what users do

    def upload(self, name: str, files: Mapping[str, str | bytes | Path], who: Identity = ANN) -> Path:
        """A workspace with these files (a path: a file or folder that is copied); returns its folder."""
        generation = workspaces.next_generation(self.engine, who.tenant, name)
        folder = self.places.workspace(who.tenant, name, generation)
        folder.mkdir(parents=True, mode=0o700)
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, Path):
                target.write_bytes(content if isinstance(content, bytes) else content.encode())
            elif content.is_dir():
                shutil.copytree(content, target)
            else:
                shutil.copyfile(content, target)
        workspaces.add(self.engine, who.tenant, name, generation, len(files), 1000, time.time())
        return folder

    def model(self, name: str, source: str, files: Mapping[str, str | bytes | Path] | None = None, who: Identity = ANN) -> Path:
        """A workspace whose model.py is this source."""
        return self.upload(name, {"a.root": b"root", "model.py": source + "\ndef model(idim):\n    return None\n", **(files or {})}, who)

    def submit(self, workspace: str | None, who: Identity = ANN, published: bool = False, **request: Any) -> JobRecord:
        """Submit a training (or with kind="predict" a prediction) as the server does."""
        kind = PredictRequest if request.get("kind") == "predict" else TrainRequest
        asked = kind.model_validate({"workspace": workspace, **(request if "files" in request else QUICK | request)})
        new = admit(who, asked, self.settings, self.engine, published=published)
        return jobs.create(self.engine, new, now=time.time())[0]

    def job(self, job: JobRecord) -> JobRecord:
        """The job as it is now."""
        found = jobs.get(self.engine, job.id)
        assert found is not None
        return found

    def until(self, job: JobRecord, done: Callable[[JobRecord], object] = lambda job: State(job.state) in ENDED) -> JobRecord:
        """Wait until something holds of a job, unless told otherwise: until it has ended."""
        return wait_for(lambda: (now := self.job(job)) and done(now) and now, lambda: f"{self.job(job)}\n{self.log(job)}\n{self.told()}")

    def running(self, job: JobRecord, words: str = "begins") -> JobRecord:
        """Wait until a job runs and has said something."""
        return self.until(job, lambda now: now.state == State.RUNNING and words in self.log(job))

    def log(self, job: JobRecord) -> str:
        path = self.places.job(job.id) / "log.txt"
        return path.read_text() if path.exists() else ""

    def versions(self, model: str, who: Identity = ANN) -> list[int]:
        return Repository(self.places.repository).versions(who.tenant, model)

    # ---- the worker

    def start(self) -> None:
        """Start a worker."""
        assert self.worker is None
        with (self.folder / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen([sys.executable, "-c", WORK], stdout=log, stderr=log, env=self.environment())

    def environment(self) -> dict[str, str]:
        """The variables of its worker."""
        given = self.settings.model_dump(mode="json", exclude_unset=True)
        environment = {f"MLAAS_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
        return {name: value for name, value in os.environ.items() if not name.startswith("MLAAS_")} | environment

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the worker by a signal; returns its exit status."""
        assert self.worker is not None
        self.worker.send_signal(number)
        status = self.worker.wait(PATIENCE)
        self.worker = None
        return status

    def told(self) -> str:
        """What the worker has logged."""
        path = self.folder / "worker.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End everything."""
        if self.worker is not None:
            self.stop(signal.SIGKILL)
        for process in self.processes():
            process.kill()
        self.engine.dispose()

    def processes(self, ids: Iterable[str] = ()) -> list[psutil.Process]:
        """Processes of jobs of this site: jobs, and the shims beside them. ids: only of these jobs."""
        marks = [str(self.places.job(id)) for id in ids] or [str(self.places.data / "jobs")]
        return [process for process in psutil.process_iter() if any(mark in told_by(process) for mark in marks)]


def told_by(process: psutil.Process) -> str:
    """Command line, working directory and environment of a process, as far as they can be seen."""
    try:
        with process.oneshot():
            return "\n".join([*process.cmdline(), process.cwd(), *process.environ().values()])
    except (psutil.Error, OSError):
        return ""


def wait_for(done: Callable[[], Any], why: Callable[[], str] = lambda: "") -> Any:
    """Wait until something is true, and return it."""
    until = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < until, f"waited too long\n{why()}"
        time.sleep(0.05)
    return found
