"""mlaas jobs, job, logs, cancel, delete."""

from __future__ import annotations

import sys
from argparse import Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlaas.commands_service.session import connected
from mlaas.commands_service.text import ago, clock, coloured_state, figure, note, pairs, printable, show, table, when
from mlaas.errors import Cancelled, UserError
from mlaas.sizes import write_size

if TYPE_CHECKING:
    from mlaas.client import Client, Event, Job


ENDED = frozenset({"succeeded", "failed", "cancelled", "timed_out"})


class JobError(UserError):
    """The job that was followed did not succeed."""


def jobs(options: Namespace) -> None:
    """List jobs."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        chosen = {name: getattr(options, name) or "" for name in ("kind", "model", "workspace")}
        found = list(client.jobs.list(states=options.state or (), limit=options.limit, **chosen))
    if options.json:
        show(plain(found))
    elif not found:
        note("no jobs that fit" if options.state or any(chosen.values()) else "no jobs yet; submit one with: mlaas submit")
    else:
        table(("JOB", "KIND", "STATE", "MODEL", "CREATED", "TOOK", ""), map(_row, found))


def _row(job: Job) -> tuple[str, ...]:
    model = f"{job.model}@{job.version}" if job.version else job.model
    return job.process_name, job.kind, job.state, model, ago(job.created), clock(_took(job)), job.reason


def _took(job: Job) -> float | None:
    if job.started is None:
        return None
    return ((job.finished or datetime.now(UTC)) - job.started).total_seconds()


def job(options: Namespace) -> None:
    """Show one job."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        found = client.jobs.get(options.job)
        if options.json:
            show(plain(found))
            return
        final = client.jobs.metrics(found.id).final if found.kind == "train" and found.ended else {}
    pairs([*_details(found), *((split, _figures(figures)) for split, figures in final.items() if isinstance(figures, dict))])


def _figures(figures: dict[str, Any]) -> str:
    return "  ".join(f"{name} {figure(value)}" for name, value in figures.items() if isinstance(value, int | float))


def _details(job: Job) -> list[tuple[str, str]]:
    gpus = f", {job.gpus} GPU" if job.gpus else ""
    return [
        ("job", f"{job.process_name} (number {job.number}, id {job.id})"),
        ("state", f"{job.state}{f': {job.reason}' if job.reason else ''}"),
        ("kind", job.kind),
        ("model", f"{job.model}@{job.version}" if job.version else job.model),
        ("workspace", job.workspace or ""),
        ("owner", job.owner or ""),
        ("worker", job.worker or ""),
        ("asked for", f"{figure(job.cpus)} CPU{gpus}, {write_size(job.memory)} memory, {clock(job.time_limit)}"),
        ("created", when(job.created)),
        ("started", when(job.started)),
        ("finished", when(job.finished)),
        ("took", clock(_took(job))),
        ("used", f"{clock(job.cpu_seconds)} of CPU, {write_size(job.peak_memory)} memory" if job.cpu_seconds else ""),
        ("attempts", str(job.attempt) if job.attempt > 1 else ""),
        ("exit code", str(job.exit_code) if job.exit_code else ""),
    ]


def logs(options: Namespace) -> None:
    """Print the log of a job, or follow it."""
    with connected(options) as client:
        if options.follow:
            follow(client, client.jobs.get(options.job), quiet=options.quiet)
            return
        for piece in client.jobs.log(options.job, tail=options.tail):
            sys.stdout.write(printable(piece))


def follow(client: Client, job: Job, *, quiet: bool = False) -> None:
    """Print what a job writes until it ends. Raises JobError unless it succeeds; Ctrl-C leaves the job alone and says how to cancel it."""
    name, last = job.process_name, ""
    try:
        for event in client.jobs.follow(job.id):
            last = _told(name, event, last, quiet)
    except KeyboardInterrupt:
        raise Cancelled(f"{name} goes on; follow it again: mlaas logs -f {name}; stop it: mlaas cancel {name}") from None
    _ended(client.jobs.get(job.id), quiet)


def _told(name: str, event: Event, last: str, quiet: bool) -> str:
    if event.kind == "log":
        sys.stdout.write(printable(event.text))
        sys.stdout.flush()
    elif event.kind == "state" and event.data.get("state") not in ENDED:  # how it ended is told at the end
        said = _state(event.data)
        if said != last and not quiet:
            note(f"mlaas: {name} {said}")
        return said
    return last


def _state(data: dict[str, Any]) -> str:
    reason = str(data.get("reason") or "")
    return f"{data.get('state', '')}{f': {reason}' if reason else ''}"


def _ended(job: Job, quiet: bool) -> None:
    name = job.process_name
    if job.state != "succeeded":
        raise JobError(f"{name} {job.state.replace('_', ' ')}{f': {job.reason}' if job.reason else ''}")
    if quiet:
        return
    took = clock(_took(job))
    if job.kind == "train" and job.version:
        note(f"mlaas: {name} succeeded after {took}: model {job.model}@{job.version}; get it with: mlaas models download {job.model}")
    else:
        note(f"mlaas: {name} succeeded after {took}")


def cancel(options: Namespace) -> None:
    """Cancel jobs."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        found = [client.jobs.cancel(name) for name in options.jobs]
    if options.json:
        show(plain(found))
        return
    for job in found:
        print(f"{job.process_name}  {coloured_state(job.state) if job.ended else 'is being cancelled'}")


def delete(options: Namespace) -> None:
    """Delete jobs that have ended."""
    with connected(options) as client:
        for name in options.jobs:
            client.jobs.delete(name)
            print(f"{name}  deleted")
