"""Bundles as archives: packed so that TFaaS takes them, unpacked with limits because an archive can come from anybody."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO, cast

from mlaas import unpacking
from mlaas.errors import BundleError
from mlaas.models import staging
from mlaas.models.bundle import Bundle, read_bundle, verify_files
from mlaas.models.manifest import MANIFEST, Manifest
from mlaas.unpacking import ArchiveError, Limits, tar_gzip

MAX_FILES = 10_000
MAX_BYTES = 8 * 2**30


def pack(bundle: Bundle | Path | str, path: Path | str, *, folder: str | None = None, replace: bool = False) -> Path:
    """Write a bundle as .tar.gz, in one folder (the model's name unless given; "" puts the files at the top), each folder before its files.

    The same bundle always gives the same bytes. The digests are checked first. Raises BundleError, ResourceError (disk full).
    """
    opened = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
    target = Path(path).absolute()
    if os.path.lexists(target) and not replace:
        raise BundleError(f"{target} exists already; choose another place, or allow it to be replaced")
    verify_files(opened.path, opened.manifest)
    top = opened.manifest.name if folder is None else folder
    aside = target.parent / f".{target.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("xb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                _add(opened, top, cast(BinaryIO, packed))
            staging.sync_folder(aside)
            aside.replace(target)
            staging.sync_folder(target.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        staging.raise_if_full(error, target)
        raise BundleError(f"{target} cannot be written: {error.strerror}") from error
    return target


def unpack(path: Path | str, target: Path | str, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES, replace: bool = False) -> Manifest:
    """Unpack a .tar.gz of a bundle into the new folder `target` and check it; whatever goes wrong, nothing is left behind.

    The bundle is at the top of the archive or in one folder. Links, devices, sparse files, paths that leave the folder, more than `max_files`
    files and folders or more than `max_bytes` of unpacked data are refused (BundleError).
    """
    source, target = Path(path), Path(target)
    with staging.staged(target, replace=replace) as folder:
        try:
            unpacking.unpack(source, folder, Limits(max_files, max_bytes, why="which is not allowed for a bundle"), what=str(source), read=tar_gzip)
        except ArchiveError as error:
            raise BundleError(str(error)) from error
        except FileNotFoundError as error:
            if error.filename is not None and Path(error.filename) == source:
                raise BundleError(f"there is no file {source}") from None
            raise
        _lift(folder, source)
        return read_bundle(folder).manifest


def _lift(folder: Path, source: Path) -> None:
    """Bring a bundle that lies in the archive's only folder to the top."""
    if (folder / MANIFEST).is_file():
        return
    entries = list(folder.iterdir())
    if len(entries) != 1 or not (entries[0] / MANIFEST).is_file():
        raise BundleError(f"{source} is not the archive of a bundle: it has no {MANIFEST}")
    inner = entries[0].rename(folder / f".inner-{os.urandom(8).hex()}")
    for entry in inner.iterdir():
        entry.rename(folder / entry.name)
    inner.rmdir()


def _add(bundle: Bundle, top: str, stream: BinaryIO) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        names = [MANIFEST, *bundle.manifest.files]
        folders = {parent.as_posix() for name in names for parent in Path(name).parents if parent.as_posix() != "."}
        if "saved_model.pb" in names:
            folders.add("assets")  # TFaaS takes a model for TensorFlow 2 only if this folder is there, even if empty
        for name in sorted(folders.union([""] if top else [])):
            archive.addfile(_entry(bundle, "/".join(part for part in (top, name) if part), 0, tarfile.DIRTYPE))
        for name in sorted(names):
            path = bundle.path / name
            with path.open("rb") as file:
                archive.addfile(_entry(bundle, f"{top}/{name}" if top else name, path.stat().st_size, tarfile.REGTYPE), file)


def _entry(bundle: Bundle, name: str, size: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    entry.mtime = int(bundle.manifest.created.timestamp())
    return entry


def copy(bundle: Bundle, folder: Path) -> None:
    """Copy what the manifest lists, and the folders that a SavedModel needs, into an empty folder."""
    for name in [MANIFEST, *bundle.manifest.files]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, folder / name)
        (folder / name).chmod(0o644)  # closed to others is the repository, not what is in it: models run as a user without rights
    if "saved_model.pb" in bundle.manifest.files:
        (folder / "assets").mkdir(exist_ok=True)
    for place in [folder, *(entry for entry in folder.rglob("*") if entry.is_dir())]:
        place.chmod(0o755)
