"""What a job leaves, taken over: its model into the repository, its figures and scores into result/. Every step may be done again after a crash.

work/ was written by the job, so nothing in it is trusted: plain files are copied, without following a link, into a folder that the job cannot
write to, and only the copy is looked at.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from mlaas.beneath import open_beneath, read_beneath, remove_tree, walk_beneath
from mlaas.errors import BundleError
from mlaas.jobs.command import CACHE, MODEL, SCORES
from mlaas.jobs.figures import FINAL, PLACES, STREAM
from mlaas.models.bundle import read_bundle
from mlaas.models.manifest import MANIFEST, MAX_BYTES, parse_manifest
from mlaas.models.repository import Repository
from mlaas.models.staging import sync_folder
from mlaas.places import Places
from mlaas.sizes import write_size
from mlaas.store.records import JobRecord

RESULT = "result"
MOST_FILES = 20_000
PIECE = 1 << 20


def publish(job: JobRecord, places: Places, limit: int) -> int | None:
    """Take over what a job left that succeeded; returns the version of its model (a training), or None (a prediction).

    limit: most bytes to take. Raises BundleError when that cannot be published, ResourceError or OSError when there is no room for it (now).
    """
    folder = places.job(job.id)
    if job.kind == "predict":
        _take_scores(folder, limit)
        return None
    repository = Repository(places.repository)
    version = repository.version_of_job(job.tenant, job.model, job.id)
    if version is not None and not (folder / "work" / MODEL).is_dir():
        return version
    taken = folder / ".taken"
    remove_tree(taken)
    try:
        _copy_tree(folder, f"work/{MODEL}", taken, limit)
        if version is None:
            version = repository.publish(read_bundle(taken, verify=False), job.tenant, job.model, job=job.id).manifest.version
        keep_figures(folder, taken)
    finally:
        remove_tree(taken)
    return version


def complete(folder: Path) -> bool:
    """Whether there is a whole bundle in a job's folder: its manifest appears last, and all its files are there."""
    try:
        manifest = parse_manifest(read_beneath(folder, f"work/{MODEL}/{MANIFEST}", MAX_BYTES + 1).decode(), MANIFEST)
        for name in manifest.files:
            os.close(open_beneath(folder, f"work/{MODEL}/{name}"))
    except (OSError, UnicodeDecodeError, BundleError):
        return False
    return True


def keep_figures(folder: Path, source: Path | None = None) -> None:
    """Keep the figures of a training in result/: those of its bundle, or of a training that did not come to its end."""
    result = folder / RESULT
    result.mkdir(mode=0o700, exist_ok=True)
    for name in (STREAM, FINAL):
        sources = [(source, name)] if source else [(folder, f"{place}/{name}") for place in PLACES[1:]]
        for root, path in sources:
            with suppress(FileNotFoundError):
                _copy_file(root, path, result / name, MAX_BYTES)
                break


def tidy(folder: Path) -> None:
    """Remove what only a job that is not over needs."""
    for name in ("work", CACHE, "input/bundle", "input/.bundle", ".taken"):
        remove_tree(folder / name)


def _take_scores(folder: Path, limit: int) -> None:
    target = folder / RESULT / SCORES
    if target.is_dir():
        return
    target.parent.mkdir(mode=0o700, exist_ok=True)
    aside = target.with_name(f".{SCORES}")
    remove_tree(aside)
    if not _copy_tree(folder, f"work/{SCORES}", aside, limit):
        raise BundleError("the prediction left no scores")
    aside.rename(target)
    sync_folder(target.parent)


def _copy_tree(root: Path, relative: str, target: Path, limit: int) -> int:
    """Copy the plain files below a folder; returns how many. Raises BundleError when they are too many or too large, or there is no folder."""
    target.mkdir(mode=0o700)
    files, left = 0, limit
    try:
        for entry in walk_beneath(root, relative):
            files += 1
            if files > MOST_FILES:
                raise BundleError(f"the job left more than {MOST_FILES:,} files")
            (target / entry.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            left -= _copy_file(root, f"{relative}/{entry.path}", target / entry.path, left, limit)
    except FileNotFoundError as error:
        raise BundleError(f"the job ended without leaving its result ({error.filename})") from None
    return files


def _copy_file(root: Path, path: str, target: Path, left: int, limit: int | None = None) -> int:
    """Copy a plain file whole or not at all; returns its size. Raises FileNotFoundError, BundleError for more than `left` bytes."""
    aside = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(open_beneath(root, path), "rb") as source, aside.open("xb") as copy:
            while piece := source.read(PIECE):
                if copy.write(piece) and copy.tell() > left:
                    raise BundleError(f"the job left more than {write_size(limit or left)}")
            size = copy.tell()
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return size
