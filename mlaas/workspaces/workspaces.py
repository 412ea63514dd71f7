"""What can be done with workspaces."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from mlaas.beneath import Entry, open_beneath, remove_tree, walk_beneath
from mlaas.errors import ResourceError, UserError
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import StoreError, WorkspaceRecord, workspaces
from mlaas.unpacking import Unpacked, unpack
from mlaas.workspaces.folders import discard, entries, lifted, place, private, sync, touched
from mlaas.workspaces.quota import Quota

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ORPHANED = 3600.0
"""Seconds after which a generation without a record is removed: an upload that is just finishing has its record within milliseconds."""
_T = TypeVar("_T")


class Workspaces:
    """The uploaded folders of all tenants. Any number of threads and processes may use them at the same time."""

    def __init__(self, places: Places, engine: Engine, settings: Settings) -> None:
        self._places, self._engine, self._settings = places, engine, settings
        self._quota = Quota(places, engine, settings)

    def store(self, tenant: str, name: str, archive: Path) -> WorkspaceRecord:
        """Make an uploaded archive (.tar, .tar.gz, .tar.bz2, .tar.xz, .zip) the current generation of a name; its only top folder is lifted.

        Raises ArchiveError (what it holds), TooLargeError (limits of the service or of the tenant), ResourceError (disk), StoreError. Nothing is
        left then, and what was current stays so.
        """
        if not NAME.fullmatch(name):
            raise UserError(f"name: {name!r} must be up to 100 letters, digits, '_', '.' and '-', beginning with a letter or a digit")
        limits = self._quota.limits(tenant)
        with self._aside() as aside:
            unpacked = unpack(archive, aside, limits)
            top = lifted(aside, unpacked)
            sync(top)
            record = self._publish(top, tenant, name, unpacked)
        self._sweep_unused(tenant, name)
        return record

    def get(self, tenant: str, name: str) -> WorkspaceRecord | None:
        """The current generation of a name."""
        return workspaces.current(self._engine, tenant, name)

    def listing(self, tenant: str, *, limit: int = 50, after: str = "") -> list[WorkspaceRecord]:
        """The current generations by name. after: only names behind this one."""
        return workspaces.listing(self._engine, tenant, limit=limit, after=after)

    def files(self, tenant: str, name: str) -> list[Entry]:
        """The files of a workspace by path. Raises FileNotFoundError when there is no such workspace."""
        return self._current(tenant, name, lambda folder: list(walk_beneath(folder)))

    def open(self, tenant: str, name: str, path: str) -> int:
        """A descriptor of a file of a workspace, open for reading. Raises FileNotFoundError when it is not there."""
        return self._current(tenant, name, lambda folder: open_beneath(folder, path))

    def delete_specs(self, tenant: str, name: str) -> int:
        """Delete the files with "specs" in their names at the top of a workspace, as the published call does; returns how many."""
        return self._current(tenant, name, lambda folder: self._delete_specs(tenant, name, folder))

    def delete(self, tenant: str, name: str) -> bool:
        """Delete a workspace; false when there is none. Jobs that were submitted keep what they need of it."""
        found = workspaces.drop(self._engine, tenant, name)
        self._sweep_unused(tenant, name)
        return found

    def usage(self, tenant: str) -> int:
        """The disk that a tenant takes, in bytes: workspaces, jobs and models. What jobs and models take is some seconds old."""
        return self._quota.used(tenant)

    def sweep(self) -> int:
        """Remove generations that nobody uses, uploads that were never finished, and what a crash left; returns how many of them."""
        return self._sweep_unused() + self._sweep_uploads() + self._sweep_orphans()

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """An empty folder on the same disk, removed at the end. Trouble of the disk becomes a ResourceError."""
        folder = self._places.uploads / f"unpack-{secrets.token_hex(8)}"
        try:
            private(folder, self._places.data)
            yield folder
        except OSError as error:
            raise ResourceError(f"the workspace cannot be written to the disk of the service: {error.strerror or error}") from error
        finally:
            remove_tree(folder)

    def _publish(self, top: Path, tenant: str, name: str, unpacked: Unpacked) -> WorkspaceRecord:
        generation = workspaces.next_generation(self._engine, tenant, name)
        target = self._places.workspace(tenant, name, generation)
        place(top, target, self._places.data)
        try:
            return workspaces.add(
                self._engine, tenant, name, generation, unpacked.files, unpacked.size, time.time(), room=self._quota.room(tenant)
            )  # fmt: skip
        except BaseException:
            # If the database went away just now, only it knows whether the record is there; `sweep` asks it again.
            with suppress(StoreError):
                if not workspaces.recorded(self._engine, tenant, name, generation):
                    remove_tree(target)
            raise

    def _current(self, tenant: str, name: str, use: Callable[[Path], _T]) -> _T:
        """Use the folder of the current generation; once more when another upload took its place in the meantime."""
        record = self.get(tenant, name)
        while record is not None:
            try:
                return use(self._places.workspace(tenant, name, record.generation))
            except FileNotFoundError:
                now = self.get(tenant, name)
                if now is None or now.generation == record.generation:
                    raise
                record = now
        raise FileNotFoundError(f"there is no workspace {name!r}")

    def _delete_specs(self, tenant: str, name: str, folder: Path) -> int:
        doomed = [entry for entry in walk_beneath(folder) if "/" not in entry.path and "specs" in entry.path]
        for entry in doomed:
            (folder / entry.path).unlink(missing_ok=True)
        left = list(walk_beneath(folder))
        workspaces.resize(self._engine, tenant, name, int(folder.name), len(left), sum(entry.size for entry in left))
        return len(doomed)

    def _sweep_unused(self, tenant: str = "", name: str = "") -> int:
        """Remove generations that nobody uses: of one name, or all."""
        removed = 0
        for record in workspaces.unused(self._engine):
            if tenant and (record.tenant, record.name) != (tenant, name):
                continue
            if workspaces.forget(self._engine, record.tenant, record.name, record.generation):
                discard(self._places.workspace(record.tenant, record.name, record.generation))
                removed += 1
        return removed

    def _sweep_uploads(self) -> int:
        oldest = time.time() - self._settings.upload_retention
        stale = [path for path in entries(self._places.uploads) if touched(path) < oldest]
        for path in stale:
            remove_tree(path)
        return len(stale)

    def _sweep_orphans(self) -> int:
        """Remove generations whose record was never written, or went before their files did."""
        oldest = time.time() - ORPHANED
        there = [path for tenant in entries(self._places.data / "workspaces") for name in entries(tenant) for path in entries(name)]
        old = [path for path in there if touched(path) < oldest]
        known = workspaces.known(self._engine) if old else set()
        orphans = [path for path in old if (path.parent.parent.name, path.parent.name, path.name) not in known]
        for path in orphans:
            discard(path)
        return len(orphans)
