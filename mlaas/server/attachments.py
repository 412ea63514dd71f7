"""Files that are added to a model after it was trained: what TFaaS reads beside it (params.json, labels.txt), or documents about it.

A version never changes; adding a file publishes the next version, with the same model and the file.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

from mlaas.beneath import remove_tree, usage_beneath
from mlaas.models import archive
from mlaas.models.bundle import Bundle, finish
from mlaas.models.catalogue import Found
from mlaas.models.manifest import Manifest
from mlaas.models.tfaas import LABELS, PARAMS
from mlaas.server import models
from mlaas.server.deps import Context
from mlaas.sizes import write_size
from mlaas.web.problem import Problem

FOLDER = "attachments"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
SUFFIXES = (".json", ".txt", ".pdf", ".gz")
LIMIT = 16 * 10**6
"""Largest file in bytes."""
OWN = {"description", "options", "img_channels", "op", "timestamp"}
"""What params.json may say otherwise than the bundle does: all the rest follows from its files."""


def attach(parts: Context, found: Found, filename: str, source: Path) -> Bundle:
    """Publish the next version of a model with a file added or replaced. Raises Problem 413, 422 or 507, BundleError, ResourceError."""
    name = check_name(filename)
    if source.stat().st_size > LIMIT:
        raise Problem(413, f"the file is larger than {LIMIT // 10**6} MB, which is the most that a model takes beside it", field="file")
    bundle = models.opened(found)
    _check_room(parts, found)
    folder = parts.places.uploads / f"attach-{secrets.token_hex(16)}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        archive.copy(bundle, folder)
        manifest = _write(bundle, folder, name, source.read_bytes())
        finish(folder, manifest)
        return parts.catalogue.repository.publish(folder, found.tenant, found.model)
    finally:
        remove_tree(folder)


def _check_room(parts: Context, found: Found) -> None:
    """Raise Problem 507 when the owner of a model has no room for another version: it is a copy of the whole."""
    limit = parts.settings.user_disk
    if limit and parts.workspaces.usage(found.tenant) + usage_beneath(found.path) > limit:
        raise Problem(507, f"another version would take more than {write_size(limit)}, which is all the disk of one user; delete some", field="file")


def check_name(filename: str) -> str:
    """The name that a file is kept under. Raises Problem 422."""
    if not NAME.fullmatch(filename) or not filename.lower().endswith(SUFFIXES):
        raise Problem(422, f"file: the name must be of letters, digits, '_', '.' and '-', and end with one of {', '.join(SUFFIXES)}", field="file")
    return filename


def _write(bundle: Bundle, folder: Path, name: str, data: bytes) -> Manifest:
    """Put the file into the copy of the bundle; returns the manifest, which labels change."""
    if name == PARAMS:
        (folder / PARAMS).write_text(_params(bundle, data), "utf-8")
    elif name == LABELS:
        labels = _labels(bundle.manifest, data)
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
        return bundle.manifest.model_copy(update={"classes": labels})
    else:
        (folder / FOLDER).mkdir(exist_ok=True)
        (folder / FOLDER / name).write_bytes(data)
    return bundle.manifest


def _params(bundle: Bundle, data: bytes) -> str:
    """The text of params.json: the bundle's own, with what may be said otherwise. Raises Problem 422."""
    given, known = _document(data), bundle.json(PARAMS)
    for key, value in given.items():
        if key in known and key not in OWN | {"name"} and value not in ("", known[key]):
            raise Problem(422, f"{PARAMS}: {key} must be {known[key]!r}, as the files of the model have it, or be left out", field=key)
    return json.dumps({**known, **{key: value for key, value in given.items() if key in OWN or key not in known}}, indent=2) + "\n"


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Problem(422, f"{PARAMS} must hold a JSON object", field="file")
    return found


def _labels(manifest: Manifest, data: bytes) -> list[str]:
    try:
        labels = [" ".join(line.split()) for line in data.decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise Problem(422, f"{LABELS} must be a text file in UTF-8", field="file") from None
    if len(labels) != len(manifest.classes) or len(set(labels)) != len(labels):
        raise Problem(422, f"{LABELS} must name each of the {len(manifest.classes)} classes of the model, one per line", field="file")
    return labels
