"""What the server does with models, for API v1, the published calls and the pages alike."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress

from mlaas.auth.groups import members
from mlaas.auth.identity import Identity
from mlaas.beneath import open_beneath
from mlaas.errors import BundleError
from mlaas.models import archive
from mlaas.models.bundle import Bundle, read_bundle
from mlaas.models.catalogue import Found, Listed, NoModel, parse
from mlaas.models.manifest import MANIFEST
from mlaas.server import documents, wire
from mlaas.server.deps import EVERYBODY, Context, owner
from mlaas.server.downloads import OpenFile, served
from mlaas.web.problem import Problem

REPORT = "report"


def find(parts: Context, identity: Identity, reference: str) -> Found:
    """What a reference stands for, for the caller. Raises NoModel (404): there is none, or none that they may use."""
    return parts.catalogue.resolve(reference, identity.tenant, identity.groups, admin=identity.admin)


def find_model(parts: Context, identity: Identity, model: str) -> Found:
    """The newest version of a model that is named without a version. Raises NoModel."""
    if parse(model).version:
        raise NoModel(f"there is no model {model!r} that you may use")
    return find(parts, identity, model)


def find_version(parts: Context, identity: Identity, model: str, version: str) -> Found:
    """A version of a model, by its number or an alias. Raises NoModel."""
    find_model(parts, identity, model)
    return find(parts, identity, f"{model}@{version}")


def find_own(parts: Context, identity: Identity, model: str, version: int | None = None) -> Found:
    """A model (or a version of it) that the caller may change: their own, for administrators any. Raises NoModel; Problem 403 for a shared one."""
    found = find_model(parts, identity, model) if version is None else find_version(parts, identity, model, str(version))
    if found.tenant != identity.tenant and not identity.admin:
        raise Problem(403, f"the model {model!r} is shared with you; only its owner may change it")
    return found


def opened(found: Found) -> Bundle:
    """The bundle of a version. Raises NoModel when it was removed meanwhile."""
    try:
        return read_bundle(found.path, verify=False)
    except BundleError:
        if found.path.exists():
            raise
        raise NoModel(f"there is no model '{found.model}@{found.version}' that you may use") from None


def listed(parts: Context, identity: Identity, tenant: str = "") -> list[Listed]:
    """The models that the caller may use, by the name that they go by; administrators: those of a tenant, or of everybody."""
    if tenant == EVERYBODY and identity.admin:
        entries = parts.catalogue.visible(identity.tenant, identity.groups, admin=True)
    elif owner(identity, tenant) != identity.tenant:
        entries = [entry for entry in parts.catalogue.visible(identity.tenant, (), admin=True) if entry.tenant == tenant]
    else:
        entries = parts.catalogue.visible(identity.tenant, identity.groups)
    return sorted(entries, key=name)


def name(entry: Listed) -> str:
    """The name that a model goes by: for somebody else's with its owner."""
    return f"{entry.tenant}:{entry.model}" if entry.shared else entry.model


def document(parts: Context, identity: Identity, entry: Listed) -> wire.Model | None:
    """A model as the caller sees it; None when it was removed meanwhile."""
    mine = entry.tenant == identity.tenant or identity.admin
    with suppress(BundleError):
        groups = parts.catalogue.shares(entry.tenant, entry.model) if mine else []
        return documents.model(entry, parts.catalogue.repository, groups)
    return None


def describe(parts: Context, identity: Identity, found: Found) -> wire.Model:
    """A model as the caller sees it. Raises NoModel."""
    entry = parts.catalogue.listed(found.tenant, found.model, identity.tenant)
    described = document(parts, identity, entry)
    if described is None:
        raise NoModel(f"there is no model {found.model!r} that you may use")
    return described


def versions(parts: Context, found: Found) -> list[wire.Version]:
    """The versions of a model, newest first."""
    aliases = parts.catalogue.aliases(found.tenant, found.model)
    shown = []
    for number in reversed(parts.catalogue.repository.versions(found.tenant, found.model)):
        with suppress(BundleError):
            shown.append(documents.version(parts.catalogue.repository.open(found.tenant, found.model, number, verify=False), aliases))
    return shown


def version(parts: Context, found: Found) -> wire.Version:
    """One version of a model."""
    return documents.version(opened(found), parts.catalogue.aliases(found.tenant, found.model))


def report(found: Found, path: str) -> OpenFile:
    """A file of a version's report. Raises Problem 404."""
    return served(path, lambda: open_beneath(found.path / REPORT, path), attachment=False)


def packed(parts: Context, found: Found, *, folder: str | None = None, filename: str = "") -> OpenFile:
    """A version as .tar.gz, which is packed aside and gone when it is sent. Raises BundleError when it is damaged, ResourceError.

    folder: the folder in it, by default the model's name, as TFaaS unpacks it; "" puts the files at the top, as the published server did.
    """
    bundle = opened(found)
    target = parts.places.uploads / f"archive-{secrets.token_hex(16)}.tar.gz"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        archive.pack(bundle, target, folder=folder)
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        target.unlink(missing_ok=True)
    top = found.model if folder is None else folder
    # The same bundle gives the same bytes, so that a download can go on where it was cut off.
    tag = hashlib.sha256((found.path / MANIFEST).read_bytes() + top.encode()).hexdigest()[:32]
    return OpenFile(descriptor, filename or f"{found.model}-{found.version}.tar.gz", media_type="application/gzip", headers={"ETag": f'"{tag}"'})


def share(parts: Context, identity: Identity, found: Found, group: str) -> None:
    """Let the members of a group see and use a model.

    Raises Problem 403 for a group that the caller is not in: names of shared models stand beside those that its members have, and could hide what
    they mean. Administrators may name any.
    """
    if not identity.admin and not members(identity.groups, [group]):
        raise Problem(403, f"you are not a member of the group {group!r}; models are shared with groups of one's own", field="group")
    parts.catalogue.share(found.tenant, found.model, group)


def remove(parts: Context, found: Found, number: int | None = None) -> None:
    """Delete a model, or one version of it."""
    parts.catalogue.remove(found.tenant, found.model, number)
