"""Workspaces: folders that were uploaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from mlaas.client import uploaded
from mlaas.client.documents import File, Workspace, read
from mlaas.client.download import fetch
from mlaas.client.errors import ServiceError
from mlaas.client.packing import Entry, entries, pack
from mlaas.client.paging import pages
from mlaas.client.transport import Connection
from mlaas.console import SILENT, Progress

MB = 10**6


class Workspaces:
    """The caller's workspaces. Every method raises ServiceError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Iterator[Workspace]:
        """All workspaces."""
        return pages(self._connection, Workspace, "workspaces")

    def get(self, name: str) -> Workspace:
        """One workspace."""
        return read(Workspace, self._connection.json("GET", "api", "v1", "workspaces", name))

    def files(self, name: str) -> Iterator[File]:
        """The files of a workspace."""
        return pages(self._connection, File, "workspaces", name, "files")

    def upload(self, name: str, folder: Path | str, *, exclude: Sequence[str] = (), progress: Progress = SILENT) -> Workspace:
        """Upload a folder (see `packing.entries` for what is left out); it replaces what the workspace held, for new jobs."""
        return self.upload_files(name, entries(Path(folder), exclude), progress=progress)

    def upload_files(self, name: str, files: Sequence[Entry], *, progress: Progress = SILENT) -> Workspace:
        """Upload certain files; see `upload`."""
        total = sum(file.size for file in files)
        with progress.stage(f"upload {name}", max(total // MB, 1), "MB") as stage:
            sent = _Megabytes(stage.advance)
            document = self._connection.json(
                "PUT", "api", "v1", "workspaces", name, content=lambda: pack(files, sent), headers={"Content-Type": "application/gzip"}
            )
        found = read(Workspace, document)
        uploaded.note(str(self._connection.server), found, files)
        return found

    def same(self, name: str, files: Sequence[Entry]) -> bool:
        """Whether the workspace still holds just these files, as they were uploaded from here."""
        try:
            return uploaded.holds(str(self._connection.server), self.get(name), files)
        except ServiceError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return False
            raise

    def download(self, name: str, path: str, target: Path | str, *, progress: Progress = SILENT) -> Path:
        """Get one file of a workspace."""
        return fetch(self._connection, ("workspaces", name, "files", *path.split("/")), Path(target), progress=progress)

    def delete(self, name: str) -> None:
        """Delete a workspace; jobs that use it keep what they have."""
        self._connection.json("DELETE", "api", "v1", "workspaces", name)

    def delete_specs(self, name: str) -> None:
        """Delete the specs that jobs left in a workspace."""
        self._connection.json("DELETE", "api", "v1", "workspaces", name, "specs")


class _Megabytes:
    """Bytes in, whole megabytes out; never goes back when an upload begins again."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._bytes = self._told = 0

    def __call__(self, size: int) -> None:
        self._bytes += size
        if new := self._bytes // MB - self._told:
            self._told += new
            self._advance(new)
