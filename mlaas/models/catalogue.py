"""The catalogue: who may use which model of the repository, and what a reference stands for.

    reference = [tenant:]name[@version|@alias]        without a version the latest; "latest" is an alias that always exists

Aliases and shares are small files in the model's folder, replaced atomically under the repository's lock: no database, so that the inference
service needs nothing but the repository.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas.errors import BundleError
from mlaas.models import staging
from mlaas.models.manifest import NAME, check_name
from mlaas.models.repository import Repository, locked

ALIASES = ".aliases.json"
SHARES = ".shares.json"
LATEST = "latest"
GROUP = r"[A-Za-z0-9/_.:@+-]{1,200}"
MAX_ALIASES = 100
MAX_SHARES = 100
MAX_BYTES = 2**20
LONGEST = 310  # of a reference: a tenant, a model and an alias with what is between them


class NoModel(BundleError):  # noqa: N818 - what the API calls it
    """There is no such model, or it is not one that the caller may use: the two are not told apart."""

    status = 404


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference stands for: one version of a model, and its folder (a bundle)."""

    tenant: str
    model: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that somebody may see. versions: ascending. shared: it is somebody else's. groups: those that it is shared with; for its owner only."""

    tenant: str
    model: str
    versions: tuple[int, ...]
    aliases: dict[str, int]
    shared: bool
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """The parts of a reference; tenant and version are empty where it names none."""

    tenant: str
    model: str
    version: str


class Catalogue:
    """The models of a repository as one caller sees them. Several processes may use the same repository at the same time."""

    def __init__(self, root: Path | str) -> None:
        self.repository = Repository(root)

    def resolve(self, reference: str, tenant: str, groups: Collection[str], *, admin: bool = False) -> Found:
        """The version that a reference stands for: of the caller's own models first, then of those shared with one of the groups.

        Raises NoModel: there is none, or it is not the caller's to use (one sentence for both); the name is shared by several tenants.
        """
        parts = parse(reference)
        owner = self._owner(parts, tenant, groups, admin, reference)
        version = self._version(owner, parts, reference)
        return Found(owner, parts.model, version, self.repository.model(owner, parts.model) / str(version))

    def visible(self, tenant: str, groups: Collection[str], *, admin: bool = False) -> list[Listed]:
        """The models of the caller, by name, and then those shared with one of the groups (for an administrator: all), by owner and name."""
        own = [self._listed(tenant, model, tenant) for model in self._models(tenant)]
        others = [owner for owner in self.repository.tenants() if owner != tenant and _is_name(owner)]
        foreign = [
            self._listed(owner, model, tenant) for owner in others for model in self._models(owner) if admin or self._shared(owner, model, groups)
        ]
        return [entry for entry in own + foreign if entry.versions]

    def listed(self, tenant: str, model: str, viewer: str) -> Listed:
        """One model as `viewer` sees it. Raises NoModel when there is none; whether the viewer may see it is asked by `resolve`."""
        entry = self._listed(tenant, model, viewer)
        if not entry.versions:
            raise _absent(model)
        return entry

    def aliases(self, tenant: str, model: str) -> dict[str, int]:
        """The aliases of a model that stand for a version which is there, sorted."""
        return self._aliases(tenant, model, self.repository.versions(tenant, model))

    def set_alias(self, tenant: str, model: str, alias: str, version: int) -> None:
        """Let an alias stand for a version from now on. Raises BundleError (the alias's name, too many), NoModel (no such version)."""
        check_alias(alias)
        with self._changing(tenant, model) as folder:
            if version not in self.repository.versions(tenant, model):
                raise _absent(f"{model}@{version}")
            kept = {**self.aliases(tenant, model), alias: version}
            if len(kept) > MAX_ALIASES:
                raise BundleError(f"a model may have at most {MAX_ALIASES} aliases")
            _write(folder / ALIASES, kept)

    def remove_alias(self, tenant: str, model: str, alias: str) -> None:
        """Remove an alias. Raises NoModel when there is none."""
        with self._changing(tenant, model) as folder:
            kept = self.aliases(tenant, model)
            if alias not in kept:
                raise _absent(f"{model}@{alias}")
            _write(folder / ALIASES, {name: version for name, version in kept.items() if name != alias})

    def shares(self, tenant: str, model: str) -> list[str]:
        """The groups that a model is shared with, sorted."""
        found = _read(self.repository.model(tenant, model) / SHARES)
        return sorted({group for group in found if isinstance(group, str)}) if isinstance(found, list) else []

    def share(self, tenant: str, model: str, group: str) -> None:
        """Let the members of a group see and use a model, all its versions. Raises BundleError (the group's name, too many), NoModel."""
        if not re.fullmatch(GROUP, group):
            raise BundleError(f"group: {group!r} must be up to 200 letters, digits and / _ . : @ + -, as tokens name groups, e.g. /cms/higgs")
        with self._changing(tenant, model) as folder:
            groups = sorted({*self.shares(tenant, model), group})
            if len(groups) > MAX_SHARES:
                raise BundleError(f"a model may be shared with at most {MAX_SHARES} groups")
            _write(folder / SHARES, groups)

    def unshare(self, tenant: str, model: str, group: str) -> None:
        """Take a model back from a group. Raises NoModel when it was not shared with it."""
        with self._changing(tenant, model) as folder:
            groups = self.shares(tenant, model)
            if group not in groups:
                raise NoModel(f"the model {model!r} is not shared with the group {group!r}")
            _write(folder / SHARES, [name for name in groups if name != group])

    def remove(self, tenant: str, model: str, version: int | None = None) -> None:
        """Remove a version with its aliases, or the model with all versions, aliases and shares. Raises NoModel when there is none."""
        with self._changing(tenant, model) as folder:
            found = self.repository.versions(tenant, model)
            if version is not None and version not in found:
                raise _absent(f"{model}@{version}")
            if version is None or found == [version]:
                # First, and kept by the lock: whoever publishes under this name next starts with no shares.
                for name in (SHARES, ALIASES):
                    (folder / name).unlink(missing_ok=True)
            self.repository.remove(tenant, model, version)
            if version is not None and found != [version] and (folder / ALIASES).exists():
                _write(folder / ALIASES, self.aliases(tenant, model))

    def _owner(self, parts: Reference, tenant: str, groups: Collection[str], admin: bool, reference: str) -> str:
        if parts.tenant:
            mine = parts.tenant == tenant or admin or self._shared(parts.tenant, parts.model, groups)
            if not mine or not self.repository.versions(parts.tenant, parts.model):
                raise _absent(reference)
            return parts.tenant
        if self.repository.versions(tenant, parts.model):
            return tenant
        others = [owner for owner in self.repository.tenants() if owner != tenant and _is_name(owner) and self._shared(owner, parts.model, groups)]
        owners = [owner for owner in others if self.repository.versions(owner, parts.model)]
        if len(owners) > 1:
            names = " or ".join(f"{owner}:{parts.model}" for owner in owners)
            raise NoModel(f"the model {parts.model!r} is shared with you by several owners; say {names}")
        if not owners:
            raise _absent(reference)
        return owners[0]

    def _version(self, owner: str, parts: Reference, reference: str) -> int:
        found = self.repository.versions(owner, parts.model)
        if not found:
            raise _absent(reference)
        if parts.version in ("", LATEST):
            return found[-1]
        if is_number(parts.version):
            chosen: int | None = int(parts.version)
        else:
            chosen = self._aliases(owner, parts.model, found).get(parts.version)
        if chosen not in found:
            known = ", ".join([*map(str, found), *self._aliases(owner, parts.model, found)])
            raise NoModel(f"the model {parts.model!r} has no version {parts.version!r}; there are {known}")
        return chosen

    def _aliases(self, tenant: str, model: str, versions: Collection[int]) -> dict[str, int]:
        found = _read(self.repository.model(tenant, model) / ALIASES)
        return {alias: version for alias, version in sorted(found.items()) if version in versions} if isinstance(found, dict) else {}

    def _shared(self, tenant: str, model: str, groups: Collection[str]) -> bool:
        return bool(groups) and not set(groups).isdisjoint(self.shares(tenant, model))

    def _listed(self, tenant: str, model: str, viewer: str) -> Listed:
        versions = tuple(self.repository.versions(tenant, model))
        mine = tenant == viewer
        groups = tuple(self.shares(tenant, model)) if mine else ()
        return Listed(tenant, model, versions, self._aliases(tenant, model, versions), not mine, groups)

    def _models(self, tenant: str) -> list[str]:
        return [model for model in self.repository.models(tenant) if _is_name(model)]

    @contextmanager
    def _changing(self, tenant: str, model: str) -> Iterator[Path]:
        """The folder of a model that has versions, locked. Raises NoModel when there is none."""
        if not _is_name(model) or not self.repository.versions(tenant, model):
            raise _absent(model)
        folder = self.repository.model(tenant, model)
        with locked(folder):
            if not self.repository.versions(tenant, model):
                raise _absent(model)
            yield folder


def parse(reference: str) -> Reference:
    """Take a reference apart. Raises NoModel for what cannot be one: no model has such a name."""
    if len(reference) > LONGEST:
        raise _absent(reference[:LONGEST] + "...")
    owner, colon, rest = reference.rpartition(":")
    model, at, version = rest.partition("@")
    names = [model, *([owner] if colon else []), *([version] if at else [])]
    if not all(_is_name(name) for name in names):
        raise _absent(reference)
    return Reference(owner, model, version)


def check_alias(alias: str) -> str:
    """Return `alias` if it can be one: a name that is not a number and not "latest". Raises BundleError."""
    check_name(alias, "alias")
    if alias.isdigit() or alias == LATEST:
        raise BundleError(f"alias: {alias!r} cannot be chosen: numbers are versions, and {LATEST!r} always is the newest")
    return alias


def is_number(version: str) -> bool:
    """Whether the version of a reference is a number, not an alias."""
    return version.isascii() and version.isdigit() and len(version) < 10


def _absent(reference: str) -> NoModel:
    return NoModel(f"there is no model {reference!r} that you may use")


def _is_name(name: str) -> bool:
    return re.fullmatch(NAME.strip("^$"), name) is not None


def _read(path: Path) -> Any:
    """The content of a small JSON file; None when there is none or it is damaged (then nothing is shared)."""
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= MAX_BYTES:
            return json.loads(path.read_bytes())
    return None


def _write(path: Path, document: Any) -> None:
    """Replace a small JSON file, or leave it as it was."""
    aside = path.with_name(f"{path.name}.tmp-{os.urandom(4).hex()}")
    try:
        aside.write_text(json.dumps(document), "utf-8")
        staging.sync_folder(aside)
        aside.replace(path)
    except OSError as error:
        staging.raise_if_full(error, path)
        raise BundleError(f"{path.name} of a model cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    staging.sync_folder(path.parent)
