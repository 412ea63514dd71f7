"""What was uploaded from here, so that it is not sent again while neither the files nor the workspace have changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlaas.client.documents import Workspace
from mlaas.client.packing import Entry

MOST = 200


def path() -> Path:
    """The file of notes: $XDG_CACHE_HOME/mlaas/uploaded.json, by default ~/.cache/mlaas/uploaded.json. It may be removed at any time."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "mlaas" / "uploaded.json"


def note(server: str, workspace: Workspace, files: Sequence[Entry]) -> None:
    """Remember that a workspace holds just these files; not being able to is no error."""
    notes = _notes()
    notes.pop(f"{server} {workspace.name}", None)
    notes[f"{server} {workspace.name}"] = [_which(workspace), digest(files)]
    kept = dict(list(notes.items())[-MOST:])
    with suppress(OSError):
        path().parent.mkdir(parents=True, exist_ok=True)
        aside = path().with_name(f".{path().name}.{os.getpid()}")
        aside.write_text(json.dumps(kept))
        aside.replace(path())


def holds(server: str, workspace: Workspace, files: Sequence[Entry]) -> bool:
    """Whether the workspace is the one that these files were uploaded to, and they are as they were: paths, sizes, times of the last change."""
    return _notes().get(f"{server} {workspace.name}") == [_which(workspace), digest(files)]


def digest(files: Sequence[Entry]) -> str:
    """What stands for the files: where they are, and their paths, sizes and times."""
    listing = sorted((str(file.source.absolute()), file.path, file.size, file.modified) for file in files)
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _which(workspace: Workspace) -> str:
    return f"{workspace.generation} {workspace.created.timestamp()}"


def _notes() -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path().read_text())
        return found if isinstance(found, dict) else {}
    return {}
