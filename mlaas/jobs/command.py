"""From a job of the store to a task of the runner: what it reads is written into input/, and its command line names that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine

from mlaas.errors import UserError, WorkflowError
from mlaas.jobs import documents
from mlaas.jobs.requests import JobRequest, PredictRequest, TrainRequest
from mlaas.jobs.runners.base import Task
from mlaas.jobs.submission import bundle_of, upload_of
from mlaas.jobs.upload import Upload
from mlaas.models.archive import copy
from mlaas.models.bundle import read_bundle
from mlaas.models.manifest import read_manifest
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import tenants
from mlaas.store.records import JobRecord, WorkspaceRecord

MODEL = "model"
"""The bundle of a training, in work/."""
SCORES = "scores"
"""The folder of a prediction's files, in work/."""
CACHE = "cache"
"""In the job's folder: in place of the tenant's cache, where somebody else's code could leave something for the tenant's next job."""

_requests: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


def request_of(job: JobRecord) -> JobRequest:
    """What was submitted. Raises WorkflowError when an earlier version of the service accepted what this one does not."""
    try:
        return _requests.validate_python(job.request)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise WorkflowError(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}; submit the job again") from None


def task_of(job: JobRecord, settings: Settings, engine: Engine) -> Task:
    """Make the folder of a job ready and return the task of its present attempt. Made again, it is the same.

    Raises UserError when the job cannot run after all (its model was removed, the site's limits have changed), OSError, StoreError.
    """
    places = Places.of(settings)
    folder = places.job(job.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "input").mkdir(mode=0o700, exist_ok=True)
    tenant = tenants.get(engine, job.tenant)
    if tenant is None:
        raise UserError("the user who submitted this job is not known any more")
    request = request_of(job)
    upload = _upload(job, settings)
    cache = places.cache(job.tenant)
    if isinstance(request, TrainRequest):
        argv = _train(job, request, upload, settings, folder / "input")
    else:
        argv, foreign = _predict(job, request, upload, settings, folder / "input")
        cache = folder / CACHE if foreign else cache
    return Task(
        id=job.task, argv=argv, folder=folder, cache=cache, readable=_readable(upload, settings),
        environment=_environment(settings), user=settings.job_uid_base + tenant.number, cpus=job.cpus, gpus=job.gpus,
        memory=job.memory, disk=settings.job_disk, processes=settings.job_processes, time_limit=job.time_limit, log_limit=settings.job_log_limit,
    )  # fmt: skip


def _environment(settings: Settings) -> dict[str, str]:
    """The variables that the site gives every job."""
    proxy = {"MLAAS_XROOTD_PROXY": settings.xrootd_proxy} if settings.xrootd_proxy else {}
    return proxy | settings.job_environment


def _upload(job: JobRecord, settings: Settings) -> Upload | None:
    if job.workspace is None or job.generation is None:
        return None
    found = upload_of(settings, WorkspaceRecord(job.tenant, job.workspace, job.generation, True, 0.0, 0, 0))
    if not found.folder.is_dir():
        raise UserError(f"the workspace {job.workspace!r} of this job is gone")
    return found


def _readable(upload: Upload | None, settings: Settings) -> list[Path]:
    data = [Path(folder).expanduser().absolute() for folder in settings.local_data]
    return [*([upload.folder] if upload else []), *(folder for folder in data if folder.is_dir())]


def _train(job: JobRecord, request: TrainRequest, upload: Upload | None, settings: Settings, inputs: Path) -> Sequence[str]:
    if upload is None:
        raise UserError("this job has no workspace")
    found = documents.training(request, upload, settings, job.cpus)
    flags = [
        f"--files={_lines(inputs / 'files.txt', found.files)}",
        f"--model={found.model}",
        f"--params={_json(inputs / 'params.json', found.params)}",
    ]
    flags.append(f"--labels={found.labels if isinstance(found.labels, str) else _lines(inputs / 'labels.txt', found.labels)}")
    for name, document in (("preproc", found.preproc), ("specs", found.specs)):
        if document:
            flags.append(f"--{name}={_json(inputs / f'{name}.json', document)}")
    if found.dtype:
        flags.append(f"--dtype={found.dtype}")
    return ["mlaas", "workflow", *flags, f"--fout={MODEL}", f"--name={job.model}", *(["--resume"] if job.attempt > 1 else [])]


def _predict(job: JobRecord, request: PredictRequest, upload: Upload | None, settings: Settings, inputs: Path) -> tuple[Sequence[str], bool]:
    """The command, and whether somebody else's code runs in it: a shared model that has no ONNX form may hold any."""
    found = documents.prediction(request, upload, settings)
    bundle = _bundle(job, settings, inputs / "bundle")
    trust = not read_manifest(bundle).onnx.accepted
    flags = [f"--output={SCORES}", f"--format={request.format}"]
    flags += ["--trust"] if trust else []
    flags += [f"--tree={request.tree}"] if request.tree else []
    flags += [f"--redirector={found.redirector}"] if found.redirector else []
    return ["mlaas", "predict", *flags, "--", str(bundle), *found.files], trust and ":" in job.model


def _bundle(job: JobRecord, settings: Settings, target: Path) -> Path:
    """A copy of the model, whole or not there: the job's user cannot enter the repository, and the model may be removed while the job runs."""
    if not target.is_dir():
        found = bundle_of(job.model, job.tenant, job.groups, settings)
        aside = target.with_name(".bundle")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        copy(read_bundle(found.path), aside)
        aside.rename(target)
    return target


def _lines(path: Path, items: Sequence[Any]) -> Path:
    return _write(path, "".join(f"{item}\n" for item in items))


def _json(path: Path, document: dict[str, Any]) -> Path:
    return _write(path, json.dumps(document, indent=1) + "\n")


def _write(path: Path, text: str) -> Path:
    """Write a file whole or not at all, for this user (and whom the runner lets read it); one that is so already stays, with its rights."""
    with suppress(OSError, UnicodeDecodeError):
        if path.read_text("utf-8") == text:
            return path
    aside = path.with_name(f".{path.name}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8", newline="\n") as file:  # noqa: PTH123 - a descriptor
        file.write(text)
    aside.replace(path)
    return path
