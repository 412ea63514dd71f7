"""How much disk tenants take, and how much they may still: of their own, and of what the members of a group have together."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine

from mlaas.beneath import usage_beneath
from mlaas.errors import ResourceError, UserError
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.sizes import Size, write_size
from mlaas.store import jobs, schedule, workspaces
from mlaas.unpacking import Limits

REMEMBERED = 20.0
"""Seconds for which the disk that a tenant's jobs and models take is not measured again."""


class Quota:
    """The disk of all tenants."""

    def __init__(self, places: Places, engine: Engine, settings: Settings) -> None:
        self._places, self._engine, self._settings = places, engine, settings
        self._groups = _limited(settings.group_limits)
        self._measured: dict[str, tuple[float, int]] = {}

    def used(self, tenant: str) -> int:
        """The bytes that a tenant takes: workspaces, jobs and models. What jobs and models take is some seconds old."""
        return workspaces.disk(self._engine, tenant) + self._jobs_and_models(tenant)

    def limits(self, tenant: str) -> Limits:
        """The most that an archive of a tenant may hold now. Raises ResourceError when the tenant, or a group, has nothing left."""
        settings = self._settings
        left, whose = min(self._left(tenant), key=lambda pair: pair[0], default=(settings.unpacked_limit, ""))
        if left <= 0:
            raise ResourceError(f"{whose} are full; delete workspaces, jobs or models that are not needed")
        if left >= settings.unpacked_limit:
            return Limits(settings.unpacked_files, settings.unpacked_limit, settings.free_disk)
        return Limits(settings.unpacked_files, left, settings.free_disk, f"all that is left of {whose}")

    def room(self, tenant: str) -> int | None:
        """The bytes that all workspaces of a tenant may take together; None sets no limit."""
        left = [bytes for bytes, _ in self._left(tenant)]
        return max(0, workspaces.disk(self._engine, tenant) + min(left)) if left else None

    def _left(self, tenant: str) -> list[tuple[int, str]]:
        """What is left under each limit of a tenant, and how sentences call what it is left of."""
        found = []
        if self._settings.user_disk:
            found.append((self._settings.user_disk - self.used(tenant), f"your {write_size(self._settings.user_disk)} of disk"))
        if not self._groups:
            return found
        members = {name: set(map(_normal, groups)) for name, groups in schedule.members(self._engine).items()}
        for group, limit in self._groups.items():
            if group in members.get(tenant, ()):
                together = sum(self.used(name) for name, groups in members.items() if group in groups)
                found.append((limit - together, f"the {write_size(limit)} of disk of the group {group}"))
        return found

    def _jobs_and_models(self, tenant: str) -> int:
        when, found = self._measured.get(tenant, (0.0, 0))
        if not when or time.monotonic() - when > REMEMBERED:
            folders = [self._places.job(job) for job in jobs.with_files(self._engine, tenant)]
            found = sum(map(usage_beneath, [*folders, self._places.repository / tenant]))
            self._measured[tenant] = time.monotonic(), found
        return found


def _normal(group: str) -> str:
    """A group's name with the leading "/" that some providers leave out."""
    return "/" + group.strip("/")


def _limited(groups: Mapping[str, Mapping[str, object]]) -> dict[str, int]:
    """The groups that have a limit of disk."""
    try:
        found = {_normal(name): TypeAdapter(Size).validate_python(given.get("disk") or 0) for name, given in groups.items()}
    except ValidationError as error:
        raise UserError(f"MLAAS_GROUP_LIMITS: disk: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return {name: limit for name, limit in found.items() if limit}
