"""How much jobs may take: of the machine, per user and per group, as the settings say."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import psutil  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlaas.errors import UserError
from mlaas.settings import Settings
from mlaas.sizes import Size

MEMORY_PART = 0.8  # of the machine's, unless total_memory says otherwise


@dataclass(frozen=True, slots=True)
class Limits:
    """What running jobs may take together: their number, CPUs, bytes of memory, GPUs; and bytes of disk. Infinite: no limit."""

    jobs: float = math.inf
    cpus: float = math.inf
    memory: float = math.inf
    gpus: float = math.inf
    disk: float = math.inf


@dataclass(frozen=True)
class Rules:
    """All limits: of the machine, of each user, and of groups (by their normal names)."""

    total: Limits
    user: Limits
    groups: Mapping[str, Limits]

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """The limits that the settings name. Raises UserError naming the group and the field that is wrong."""
        total = Limits(
            cpus=settings.total_cpus or len(os.sched_getaffinity(0)),
            memory=settings.total_memory or MEMORY_PART * psutil.virtual_memory().total,
            gpus=settings.total_gpus,
        )
        user = Limits(settings.user_jobs, settings.user_cpus or math.inf, settings.user_memory or math.inf, disk=settings.user_disk or math.inf)
        return cls(total, user, {normal(name): _group(name, given) for name, given in settings.group_limits.items()})

    def limited(self, groups: Iterable[str]) -> tuple[str, ...]:
        """Those of a user's groups that have limits, by their normal names, each once."""
        return tuple(sorted({normal(group) for group in groups} & self.groups.keys()))


def normal(group: str) -> str:
    """A group's name with the leading "/" that some providers leave out."""
    return "/" + group.strip("/")


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[int, Field(ge=0)] | None = None
    cpus: Annotated[float, Field(ge=0)] | None = None
    memory: Size | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    disk: Size | None = None


def _group(name: str, given: Mapping[str, object]) -> Limits:
    try:
        found = _Given.model_validate(given)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = ".".join(map(str, (name, *item["loc"])))
        raise UserError(f"MLAAS_GROUP_LIMITS: {where}: {item['msg'].removeprefix('Value error, ')}") from None
    return Limits(**{field: value for field, value in found.model_dump().items() if value is not None})
