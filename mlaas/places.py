"""Where the service keeps things below its data folder: the one place that knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlaas.settings import Settings


@dataclass(frozen=True, slots=True)
class Places:
    """The folders and files of the service. All are made 0700 by the process that needs them; only job folders are opened to the job's user.

    <data>/mlaas.db                                    the default database
    <data>/secrets/                                    token, session key
    <data>/uploads/                                    uploads under way
    <data>/workspaces/<tenant>/<name>/<generation>/    an uploaded folder; a new upload is a new generation
    <data>/jobs/<id>/                                  a job: see `job`
    <data>/models/<tenant>/<model>/<version>/          the model repository
    <data>/cache/<tenant>/                             specs and handled data of a tenant's jobs
    <data>/run/                                        sockets and locks of the running service
    """

    data: Path
    repository: Path

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """The places that the settings name."""
        return cls(settings.data.expanduser().absolute(), settings.repository.expanduser().absolute())

    @property
    def database(self) -> Path:
        """The file of the default database."""
        return self.data / "mlaas.db"

    @property
    def secrets(self) -> Path:
        """The folder of generated secrets."""
        return self.data / "secrets"

    @property
    def uploads(self) -> Path:
        """The folder of uploads under way; on the same disk as the workspaces, so that a rename finishes an upload."""
        return self.data / "uploads"

    @property
    def run(self) -> Path:
        """The folder of sockets and locks."""
        return self.data / "run"

    def workspace(self, tenant: str, name: str, generation: int) -> Path:
        """One uploaded folder as it was uploaded; never changed afterwards, but by the deletion of specs."""
        return self.data / "workspaces" / tenant / name / str(generation)

    def job(self, job: str) -> Path:
        """The folder of a job.

        input/     what the submission held itself (files.txt, params.json, ...), read-only for the job
        log.txt    the job's output, written by its shim
        status.json  how it ended, written by its shim
        work/      the only folder that the job writes to: its bundle is work/model, metrics stream work/.model.run/metrics.jsonl
        result/    what the worker took over from work/ at the end: metrics.jsonl, metrics.json, scores
        """
        return self.data / "jobs" / job

    def cache(self, tenant: str) -> Path:
        """The cache of a tenant."""
        return self.data / "cache" / tenant
