"""An uploaded folder as a submission sees it: its files by the names that the user gave them, and every fault told with the field that names it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlaas.beneath import is_text, open_beneath, read_beneath, walk_beneath
from mlaas.data.sources import named_format
from mlaas.errors import WorkflowError, nearest
from mlaas.sizes import write_size
from mlaas.workflow import items_of, json_object, label_of, lines_of

TEXT_LIMIT = 16 * 10**6
PUBLISHED = "/workarea/folder_test/"
"""Where the published server put the folder inside its containers: such paths in users' lists mean the folder."""


@dataclass(frozen=True)
class Upload:
    """A generation of a workspace: its folder, which does not change, and its name for people."""

    folder: Path
    name: str

    def has(self, path: str) -> bool:
        """Whether there is a plain file of this name."""
        try:
            os.close(open_beneath(self.folder, normal(path)))
        except (FileNotFoundError, ValueError):
            return False
        return True

    def path(self, path: str, field: str) -> str:
        """The full path of a file. Raises WorkflowError when there is none, with the nearest name."""
        if not self.has(path):
            raise self.missing(path, field)
        return str(self.folder / normal(path))

    def text(self, path: str, field: str) -> str:
        """The text of a file. Raises WorkflowError: there is none, it is too large, it is not text."""
        try:
            data = read_beneath(self.folder, normal(path), TEXT_LIMIT + 1)
        except FileNotFoundError:
            raise self.missing(path, field) from None
        if len(data) > TEXT_LIMIT:
            raise WorkflowError(f"{field}: {path} is larger than {write_size(TEXT_LIMIT)}, too large for a text file")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise WorkflowError(f"{field}: {path} is not a text file (UTF-8)") from None

    def missing(self, path: str, field: str) -> WorkflowError:
        """The error for a file that is not there."""
        known = [entry.path for entry, _ in zip(walk_beneath(self.folder), range(1000), strict=False)]
        return WorkflowError(f"{field}: the workspace {self.name!r} has no file {path!r}{nearest(path, known)}")

    def names(self, given: str | Iterable[str], field: str) -> list[str]:
        """The items of a list: a file of the folder with one per line, one file of events, a comma list, or the list itself."""
        if not isinstance(given, str):
            return [item.strip() for item in given]
        if "," in given or not self._is_list(given, field):
            return items_of(given)
        found = lines_of(self.text(given, field))
        if not found:
            raise WorkflowError(f"{field}: {given} is empty; give one item per line")
        return found

    def labels(self, given: str | Iterable[str | int | float]) -> list[str | int | float] | str:
        """One label per file, or the name of the branch that holds the label."""
        if not isinstance(given, str):
            return [label_of(item) if isinstance(item, str) else item for item in given]
        found = [label_of(item) for item in self.names(given, "labels")]
        if len(found) == 1 and isinstance(found[0], str) and not self.has(given):
            return found[0]
        return found

    def document(self, given: str | dict[str, Any] | None, field: str) -> dict[str, Any]:
        """A JSON object: of a file of the folder, or the object itself."""
        if isinstance(given, str):
            return json_object(self.text(given, field), given, field) if given.strip() else {}
        return given or {}

    def _is_list(self, given: str, field: str) -> bool:
        """Whether a name is that of a list. Raises WorkflowError when it looks like one that is not there."""
        if field == "files" and named_format(given):
            return False
        if given.endswith((".txt", ".lst", ".list")) or (field == "files" and "://" not in given and not given.startswith("/")):
            self.path(given, field)
        return self.has(given)


def normal(path: str) -> str:
    """A path as users write it, relative to the folder: "./a.txt" and the published server's absolute form are "a.txt"."""
    inside = path.removeprefix(PUBLISHED)
    return inside if ".." in PurePosixPath(inside).parts else str(PurePosixPath(inside)).removeprefix("./")


def check_text(value: str, field: str) -> str:
    """Return what can be written as a line of a text file. Raises WorkflowError."""
    if not value or not is_text(value) or value != value.strip():
        raise WorkflowError(f"{field}: {value[:80]!r} is empty or holds line ends or control characters")
    return value
