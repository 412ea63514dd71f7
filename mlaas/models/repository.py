"""The repository of models: `<root>/<tenant>/<model>/<version>/`, each version a bundle, published atomically and never changed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlaas.errors import BundleError, nearest
from mlaas.models import staging
from mlaas.models.archive import copy
from mlaas.models.bundle import Bundle, finish, read_bundle, verify_files
from mlaas.models.manifest import check_name, read_manifest
from mlaas.models.tfaas import PARAMS, renamed

COUNTER = ".last-version"
LOCK = ".lock"


class Repository:
    """A folder of bundles by tenant, model and version. Several processes may publish and read at the same time."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def publish(self, source: Bundle | Path | str, tenant: str, model: str = "", *, job: str = "") -> Bundle:
        """Copy a bundle in as the next version of a model (the bundle's own name unless given); version numbers are never used again.

        The digests are checked, and name, version and job are written into the copy's manifest. Readers see the whole version or none.
        job: the job that made the bundle; when it has published already (and the publisher crashed before it could say so), that version is returned.
        """
        bundle = source if isinstance(source, Bundle) else read_bundle(source, verify=False)
        verify_files(bundle.path, bundle.manifest)
        folder = self.model(tenant, model or bundle.manifest.name)
        folder.mkdir(parents=True, exist_ok=True)
        # All slow work is done before the lock is taken: while it is held there is a small file to write and a rename.
        with staging.staged(folder / ".publish", replace=False, move=False) as aside:
            copy(bundle, aside)
            staging.sync_tree(aside)
            with locked(folder):
                if job and (found := self.version_of_job(tenant, folder.name, job)) is not None:
                    shutil.rmtree(aside, ignore_errors=True)
                    return self.open(tenant, folder.name, found, verify=False)
                version = self._next(folder)
                draft = bundle.manifest.model_copy(update={"name": folder.name, "version": version, "job": job})
                (aside / PARAMS).write_text(renamed(bundle.text(PARAMS), draft), "utf-8")
                manifest = finish(aside, draft)
                for name in ("manifest.json", PARAMS):
                    staging.sync_folder(aside / name)
                _write_counter(folder, version)
                staging.move_into_place(aside, folder / str(version))
        return Bundle(folder / str(version), manifest)

    def tenants(self) -> list[str]:
        """The tenants that have models."""
        return _folders(self.root)

    def models(self, tenant: str) -> list[str]:
        """The models of a tenant that have at least one version."""
        return [name for name in _folders(self.root / check_name(tenant, "tenant")) if self.versions(tenant, name)]

    def versions(self, tenant: str, model: str) -> list[int]:
        """The versions of a model in ascending order; empty when there is none."""
        return sorted(int(name) for name in _folders(self.model(tenant, model)) if _is_version(name))

    def open(self, tenant: str, model: str, version: int | None = None, verify: bool = True) -> Bundle:
        """Open a version of a model, the latest unless given. Raises BundleError when there is none."""
        found = self.versions(tenant, model)
        if not found:
            raise BundleError(f"{tenant} has no model {model!r}{nearest(model, self.models(tenant))}")
        chosen = found[-1] if version is None else version
        if chosen not in found:
            raise BundleError(f"the model {model!r} has no version {chosen}, only {', '.join(map(str, found))}")
        return read_bundle(self.model(tenant, model) / str(chosen), verify=verify)

    def version_of_job(self, tenant: str, model: str, job: str) -> int | None:
        """The version of a model that a job made, or None."""
        for version in reversed(self.versions(tenant, model)):
            with suppress(BundleError):  # removed meanwhile, or damaged: it tells of no job
                if read_manifest(self.model(tenant, model) / str(version)).job == job:
                    return version
        return None

    def remove(self, tenant: str, model: str, version: int | None = None) -> None:
        """Remove one version, or the model with all of them; the numbers of removed versions are not given again."""
        folder = self.model(tenant, model)
        found = self.versions(tenant, model)
        doomed = found if version is None else [number for number in found if number == version]
        if not doomed:
            raise BundleError(
                f"{tenant} has no model {model!r}" + (f" of version {version}" if version is not None else nearest(model, self.models(tenant)))
            )
        for number in doomed:
            # Out of sight at once: a reader sees the whole version or none.
            grave = (folder / str(number)).rename(folder / f".removed-{number}-{os.urandom(4).hex()}")
            shutil.rmtree(grave, ignore_errors=True)

    def model(self, tenant: str, model: str) -> Path:
        """The folder of a model, which need not exist. Raises BundleError when a name cannot be that of a folder."""
        return self.root / check_name(tenant, "tenant") / check_name(model, "model")

    def _next(self, folder: Path) -> int:
        used = [int(name) for name in _folders(folder) if _is_version(name)]
        with suppress(FileNotFoundError, ValueError):
            used.append(int((folder / COUNTER).read_text()))
        return max(used, default=0) + 1


def _write_counter(folder: Path, version: int) -> None:
    aside = folder / f"{COUNTER}.tmp"
    aside.write_text(str(version))
    staging.sync_folder(aside)
    aside.replace(folder / COUNTER)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer of a model's folder at a time, also between processes; the kernel lets go of the lock when a process dies."""
    with (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")
