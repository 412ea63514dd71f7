"""What a submission needs of a folder: the files that it names, and the files of events that its list names."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas.errors import UserError, nearest

if TYPE_CHECKING:
    from mlaas.client.packing import Entry

HELD = "--no-upload takes what the workspace holds already"
BRANCH_FILES = ("selected_branches", "exclude_branches")


@dataclass(frozen=True)
class Named:
    """What the flags of a submission name; None for what is not given."""

    files: str
    labels: str
    model: str
    params: str | None = None
    preproc: str | None = None
    specs: str | None = None


def needed(folder: Path, named: Named) -> list[Entry]:
    """The files of the folder that the submission needs. Raises UserError naming the flag when one is missing or outside of the folder."""
    from mlaas.client.packing import entry

    paths = dict.fromkeys(_paths(folder, named))
    return [entry(folder, path) for path in paths]


def _paths(folder: Path, named: Named) -> Iterator[str]:
    yield _present(folder, named.model, "model")
    for flag, path in (("params", named.params), ("preproc", named.preproc), ("specs", named.specs)):
        if path is not None:
            yield _present(folder, path, flag)
    if named.params is not None:
        yield from _branch_files(folder, named.params)
    if _is_list(folder, named.labels, "labels"):
        yield _inside(folder, named.labels, "labels")
    yield from event_files(folder, named.files)


def event_files(folder: Path, files: str, held: str = HELD) -> Iterator[str]:
    """The list of files, where it is one, and the files of the folder that it names; absolute paths, /store/... and URLs stay where they are.

    Raises UserError when one is missing; `held` says there how to take what the service holds.
    """
    from mlaas.data.sources import named_format

    if _is_list(folder, files, "files") and not named_format(files):
        yield _inside(folder, files, "files")
        lines = [line.strip() for line in (folder / files).read_text(errors="replace").splitlines()]
        beside, items = str(Path(files).parent), [line for line in lines if line and not line.startswith("#")]
    else:
        beside, items = ".", [item.strip() for item in files.split(",") if item.strip()]
    for item in items:
        if "://" not in item and not item.startswith("/"):
            yield from _matches(folder, beside, item, held)


def _matches(folder: Path, beside: str, item: str, held: str) -> list[str]:
    """The files that an entry of the list names: from the folder, or else from beside the list."""
    for start in dict.fromkeys((".", beside)):
        path = os.path.normpath(f"{start}/{item}")
        if found := sorted(name for name in glob.glob(path, root_dir=folder) if (folder / name).is_file()):  # noqa: PTH207
            return [_inside(folder, name, "files") for name in found]
    raise UserError(f"files: there is no file {folder / item}{nearest(item, _names(folder))}; {held}")


def _branch_files(folder: Path, params: str) -> Iterator[str]:
    try:
        document = json.loads((folder / params).read_text())
    except (OSError, ValueError):
        return  # the service says what is wrong with it
    for key in BRANCH_FILES:
        value = document.get(key) if isinstance(document, dict) else None
        if isinstance(value, str) and value and "," not in value and (folder / value).is_file():
            yield _inside(folder, value, f"params.{key}")


def _is_list(folder: Path, argument: str, flag: str) -> bool:
    """Whether an argument names a file of the folder; a mistyped files.txt is not a comma list of one."""
    if (folder / argument).is_file():
        return True
    if argument.endswith((".txt", ".lst", ".list")) and "," not in argument:
        _present(folder, argument, flag)
    return False


def _present(folder: Path, path: str, flag: str) -> str:
    if not (folder / path).is_file():
        raise UserError(f"{flag}: there is no file {folder / path}{nearest(Path(path).name, _names((folder / path).parent))}; {HELD}")
    return _inside(folder, path, flag)


def _inside(folder: Path, path: str, flag: str) -> str:
    """The path below the folder. Raises UserError when it is not below it: the service has the folder only."""
    short = os.path.relpath(os.path.normpath(folder.absolute() / path), folder.absolute())
    if short.startswith(".."):
        raise UserError(
            f"{flag}: {path} is not in {folder.absolute()}, and so cannot be uploaded; submit from a folder above it, or name that with --folder"
        )
    return Path(short).as_posix()


def _names(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir()] if folder.is_dir() else []
