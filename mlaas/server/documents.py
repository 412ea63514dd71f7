"""What goes over the wire, made from what the parts of the service keep."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlaas.auth.identity import Identity
from mlaas.beneath import Entry, usage_beneath
from mlaas.errors import BundleError
from mlaas.models.bundle import Bundle
from mlaas.models.catalogue import Listed
from mlaas.models.repository import Repository
from mlaas.server import wire
from mlaas.store.records import JobRecord, WorkspaceRecord

FIGURES = "metrics.json"
SPLIT = "test"


def moment(seconds: float) -> datetime:
    """A time of the store, as it is told."""
    return datetime.fromtimestamp(seconds, UTC)


def job(record: JobRecord, identity: Identity) -> wire.Job:
    """A job, as the caller may see it."""
    names = wire.Job.model_fields.keys() - {"created", "started", "finished", "owner", "worker"}
    return wire.Job(
        **{name: getattr(record, name) for name in names},
        created=moment(record.created),
        started=None if record.started is None else moment(record.started),
        finished=None if record.finished is None else moment(record.finished),
        owner=record.tenant if identity.admin else None,
        worker=(record.worker or None) if identity.admin else None,
    )


def workspace(record: WorkspaceRecord) -> wire.Workspace:
    """An uploaded folder."""
    return wire.Workspace(name=record.name, generation=record.generation, files=record.files, size=record.size, created=moment(record.created))


def file(entry: Entry) -> wire.File:
    """A file below a folder."""
    return wire.File(path=entry.path, size=entry.size, modified=moment(entry.mtime))


def model(entry: Listed, repository: Repository, groups: list[str]) -> wire.Model:
    """A model with its versions; `groups` that it is shared with, for those who may know."""
    newest = repository.open(entry.tenant, entry.model, entry.versions[-1], verify=False)
    return wire.Model(
        name=f"{entry.tenant}:{entry.model}" if entry.shared else entry.model,
        owner=entry.tenant,
        shared=entry.shared,
        latest=entry.versions[-1],
        versions=list(entry.versions),
        aliases=entry.aliases,
        groups=groups,
        updated=newest.manifest.created,
    )


def version(bundle: Bundle, aliases: Mapping[str, int]) -> wire.Version:
    """One version of a model."""
    manifest = bundle.manifest
    return wire.Version(
        version=manifest.version,
        created=manifest.created,
        framework=manifest.framework,
        task=manifest.task,
        classes=manifest.classes,
        width=manifest.width,
        engine=manifest.engine,
        size=usage_beneath(bundle.path),
        job=manifest.job or None,
        metrics=final_figures(bundle).get(SPLIT) or {},
        aliases=[alias for alias, number in aliases.items() if number == manifest.version],
    )


def final_figures(bundle: Bundle) -> dict[str, Any]:
    """The final figures of a trained model by split; empty where it was not trained here."""
    found = optional(bundle, FIGURES)
    figures = found.get("metrics") if isinstance(found, dict) else None
    return {name: value for name, value in figures.items() if isinstance(value, dict)} if isinstance(figures, dict) else {}


def card(bundle: Bundle) -> wire.Card:
    """Everything that a bundle tells of itself, without the weights."""
    return wire.Card(
        manifest=bundle.manifest.model_dump(mode="json", exclude={"files"}),
        files=sorted(bundle.manifest.files),
        features=optional(bundle, "features.json"),
        specs=optional(bundle, "specs.json"),
        metrics=final_figures(bundle),
        workflow=optional(bundle, "workflow.json"),
    )


def optional(bundle: Bundle, name: str) -> Any:
    """The content of a JSON file of a bundle; None when it has none."""
    try:
        return bundle.json(name) if name in bundle.manifest.files else None
    except BundleError:
        return None
