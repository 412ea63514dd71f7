"""The files of events that a job may read: those of its workspace, those of the site's data folders, and what lies behind URLs."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from mlaas.data.credentials import scheme
from mlaas.data.sources import CMS_REDIRECTOR, resolve
from mlaas.errors import DataError, WorkflowError
from mlaas.jobs.upload import PUBLISHED, Upload, check_text, normal
from mlaas.settings import Settings

MOST_FILES = 100_000


@dataclass(frozen=True)
class Allowed:
    """Where a job's files may lie. upload: None for a prediction without a workspace; redirector: what bare names get, or empty."""

    upload: Upload | None
    data: tuple[Path, ...]
    redirector: str

    @classmethod
    def of(cls, upload: Upload | None, settings: Settings, redirector: str = "") -> Allowed:
        """What the settings allow. Raises WorkflowError for a redirector that is none."""
        found = settings.redirector or redirector or CMS_REDIRECTOR
        try:
            resolve(["/store/file"], redirector=found)
        except DataError as error:
            raise WorkflowError(str(error)) from None
        return cls(upload, tuple(Path(folder).expanduser().absolute() for folder in settings.local_data), found)

    def paths(self, entries: Sequence[str]) -> list[str]:
        """The entries as the job is to open them: full paths, with wildcards, URLs, logical names. Raises WorkflowError for each that it may not."""
        if not entries:
            raise WorkflowError("files: there are none; name files of the workspace, or URLs")
        if len(entries) > MOST_FILES:
            raise WorkflowError(f"files: {len(entries):,} entries; at most {MOST_FILES:,} are allowed")
        return [self._path(check_text(entry, "files")) for entry in entries]

    def _path(self, entry: str) -> str:
        if scheme(entry) == "file":
            url = urlsplit(entry)
            if url.netloc not in {"", "localhost"}:
                raise WorkflowError(f"files: {entry} names a file of another machine; use a URL that can be read from there, such as root://")
            return self._path(check_text(unquote(url.path), "files"))
        if scheme(entry):
            return _url(entry)
        if entry.startswith("~"):
            raise WorkflowError(f"files: {entry}: jobs have no home folder; name files of the workspace, or URLs")
        if entry.startswith("/") and not entry.startswith(PUBLISHED):
            return self._absolute(entry)
        return self._uploaded(entry)

    def _uploaded(self, entry: str) -> str:
        """A file of the workspace, or files by a wildcard."""
        if self.upload is None:
            raise WorkflowError(f"files: {entry}: give a workspace for files that are not URLs")
        inside = normal(entry)
        if self.upload.has(inside):
            return str(self.upload.folder / inside)
        if not glob.has_magic(inside) or ".." in PurePosixPath(inside).parts:
            raise self.upload.missing(entry, "files")
        if not glob.glob(inside, root_dir=self.upload.folder, recursive=True):  # noqa: PTH207 - as the job will look for them
            raise WorkflowError(f"files: no file of the workspace {self.upload.name!r} matches {entry}")
        return f"{glob.escape(str(self.upload.folder))}/{inside}"

    def _absolute(self, entry: str) -> str:
        """A file of the site's data, or a logical name of the grid."""
        path = PurePosixPath(entry)
        if ".." not in path.parts and any(path.is_relative_to(folder) for folder in self.data):
            return self._site(entry)
        if entry.startswith("/store/") or (self.redirector != CMS_REDIRECTOR and not Path(*path.parts[:2]).exists()):
            return entry
        folders = f", below {' and '.join(map(str, self.data))}" if self.data else ""
        raise WorkflowError(f"files: {entry} is outside the workspace; allowed are files of the workspace{folders}, URLs, and /store/... names")

    def _site(self, entry: str) -> str:
        found = [entry] if Path(entry).is_file() else glob.glob(entry, recursive=True)  # noqa: PTH207 - as the job will look for them
        if not found:
            raise WorkflowError(f"files: there is no file {entry}")
        inside = [folder.resolve() for folder in self.data]
        for path in found:
            if not any(Path(path).resolve().is_relative_to(folder) for folder in inside):
                raise WorkflowError(f"files: {path} is a link that leaves the site's data")
        return entry


def _url(entry: str) -> str:
    """A URL that can be read. What it names is looked at when the job runs; here nothing is asked of other machines."""
    try:
        resolve([re.sub(r"[*\[\]]", "x", entry)])
    except DataError as error:
        raise WorkflowError(f"files: {error}") from None
    return entry
