"""Runners: what really runs a job. `base` says what each of them must do; one suite of conformance tests holds them to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlaas.jobs.runners.base import Runner
    from mlaas.places import Places
    from mlaas.settings import Settings


def of(settings: Settings, places: Places) -> Runner:
    """The runner that the settings name. Raises MissingExtraError (Docker's client is not installed)."""
    if settings.runner == "docker":
        from mlaas.jobs.runners.docker import DockerRunner

        return DockerRunner(settings, places)
    from mlaas.jobs.runners.process import ProcessRunner

    return ProcessRunner(settings, places)
