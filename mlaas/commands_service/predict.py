"""mlaas predict: with a bundle of this machine, or with a model of the service."""

from __future__ import annotations

import json
import re
import secrets
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mlaas import commands
from mlaas.commands_service.collect import event_files
from mlaas.commands_service.jobs import JobError
from mlaas.commands_service.session import connected, shown
from mlaas.commands_service.text import note, show
from mlaas.errors import Cancelled, UserError

if TYPE_CHECKING:
    from mlaas.client import Client, Job

REFERENCE = re.compile(r"([a-z0-9-]+:)?[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_.-]*)?")
MOST = 64 * 10**6
HELD = "--workspace=NAME takes those of a workspace"
LOCAL = {"engine": "auto", "trust": False, "redirector": ""}


def predict(options: Namespace) -> None:
    """Score events with a bundle, or with a model of the service."""
    if not _remote(options):
        if options.events or not options.files:
            raise UserError("files: name files of events to score with a bundle; --events goes to a model of the service")
        commands.predict(options)
        return
    for name, default in LOCAL.items():
        if getattr(options, name) != default:
            raise UserError(f"--{name} is for bundles of this machine; {options.bundle} is a model of the service")
    if bool(options.events) == bool(options.files):
        raise UserError("name files of events, or give raw events with --events=FILE (- for standard input): one of the two")
    with _explained(options), connected(options) as client:
        if options.events:
            _events(client, options)
        else:
            _files(client, options)


def _remote(options: Namespace) -> bool:
    """Whether the model is one of the service: where a server is named, or where no such folder is here and the name can be a reference."""
    return bool(options.server or options.events) or (not Path(options.bundle).exists() and REFERENCE.fullmatch(options.bundle) is not None)


@contextmanager
def _explained(options: Namespace) -> Iterator[None]:
    """Say that there is no such bundle, where that may be the matter."""
    from mlaas.client import ServiceError

    try:
        yield
    except ServiceError as error:
        if options.server or not (error.status in {0, 401, 404} or error.field == "model"):
            raise
        raise UserError(f"there is no bundle {options.bundle} here, and as a model of the service: {error}") from None


def _events(client: Client, options: Namespace) -> None:
    found = client.predict(options.bundle, read_events(options.events))
    if options.json:
        from mlaas.client.documents import plain

        show(plain(found))
        return
    for score in found.scores:
        print(" ".join(f"{value:.7g}" for value in score) if isinstance(score, list) else f"{score:.7g}")


def read_events(place: str) -> Any:
    """Raw events from a JSON file, or from standard input ("-"): columns by branch name, or a list of events. Raises UserError."""
    try:
        text = sys.stdin.read(MOST + 1) if place == "-" else Path(place).read_text()
        document = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"events: {place} cannot be read ({getattr(error, 'strerror', None) or 'it is not text'})") from None
    except ValueError as error:
        raise UserError(f"events: {place} is not JSON ({error})") from None
    if isinstance(document, dict) and set(document) == {"model", "events"}:
        document = document["events"]
    if not isinstance(document, dict | list) or (isinstance(document, list) and not all(isinstance(event, dict) for event in document)):
        raise UserError("events: give columns by branch name, or a list of events, each an object by branch name")
    return document


def _files(client: Client, options: Namespace) -> None:
    workspace = options.workspace
    local = [] if workspace else [path for item in options.files for path in event_files(Path(), item, HELD)]
    with _uploaded(client, local, options) as made:
        job = client.predict_files(
            options.bundle, options.files, workspace=workspace or made, tree=options.tree, format=options.format, device=options.device
        )
        if not options.quiet:
            note(f"mlaas: {job.process_name} scores {len(options.files)} {'file' if len(options.files) == 1 else 'files'}")
        _waited(client, job)
        for path in _scores(client, job, Path(options.output), options):
            print(path)


@contextmanager
def _uploaded(client: Client, paths: list[str], options: Namespace) -> Iterator[str | None]:
    """A workspace of its own for files of this machine, gone when the scores are here."""
    from mlaas.client import ServiceError
    from mlaas.client.packing import entry

    if not paths:
        yield None
        return
    name = f"predict-{secrets.token_hex(4)}"
    client.workspaces.upload_files(name, [entry(Path(), path) for path in dict.fromkeys(paths)], progress=shown(options))
    try:
        yield name
    finally:
        with suppress(ServiceError):
            client.workspaces.delete(name)


def _waited(client: Client, job: Job) -> None:
    try:
        ended = client.jobs.wait(job.id)
    except KeyboardInterrupt:
        client.jobs.cancel(job.id)
        raise Cancelled(f"{job.process_name} is cancelled") from None
    if ended.state != "succeeded":
        raise JobError(f"{job.process_name} {ended.state.replace('_', ' ')}{f': {ended.reason}' if ended.reason else ''}")


def _scores(client: Client, job: Job, folder: Path, options: Namespace) -> Iterator[Path]:
    """Get the files of scores; what else the job left stays there."""
    for file in client.jobs.outputs(job.id):
        place = PurePosixPath(file.path)
        if place.parts[0] == "scores" and ".." not in place.parts:
            yield client.jobs.download(job.id, file.path, folder.joinpath(*place.parts[1:]), progress=shown(options))
