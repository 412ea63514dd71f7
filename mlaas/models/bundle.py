"""Bundles: one folder per trained model, written aside, checked by digests, renamed into place."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas.errors import BundleError
from mlaas.models import native, staging, tfaas
from mlaas.models.forms import judge_native, judge_onnx, write_saved_model
from mlaas.models.manifest import (
    MANIFEST,
    Framework,
    Manifest,
    NativeRecord,
    OnnxRecord,
    check_name,
    now,
    read_manifest,
    safe_path,
    versions,
)
from mlaas.models.trained import TrainedModel

RESERVED = {MANIFEST, tfaas.PARAMS, tfaas.LABELS, "model.onnx", "saved_model.pb", "fingerprint.pb", "keras_metadata.pb"}.union(*native.FORMS.values())
RESERVED_FOLDERS = {"variables", "assets"}


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Bundle:
    """An opened bundle: its folder and its manifest. A bundle read from an archive lives in a temporary folder as long as this object."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of a file of the bundle. Raises BundleError when the manifest does not list it."""
        if name not in self.manifest.files:
            raise BundleError(f"the bundle {self.path} has no {name}")
        return self.path / name

    def text(self, name: str) -> str:
        """The text of a file."""
        try:
            return self.file(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{self.path / name} cannot be read: {error}") from None

    def json(self, name: str) -> Any:
        """The content of a JSON file."""
        try:
            return json.loads(self.text(name))
        except json.JSONDecodeError:
            raise BundleError(f"{self.path / name} is not JSON") from None


def write_bundle(
    target: Path,
    model: TrainedModel,
    documents: Mapping[str, Any],
    files: Mapping[str, Path] | None = None,
    provenance: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 1e-5,
    name: str = "",
    version: int = 1,
    replace: bool = False,
    description: str = "",
    finishing: Callable[[Path, Manifest], None] | None = None,
) -> Manifest:
    """Write a trained model as the bundle `target`: native form, SavedModel (Keras), ONNX behind the parity gate, documents, manifest.

    documents: file name -> text, bytes, or anything for JSON (NaN and infinities become null). files: file name -> a file or a folder to copy.
    name: of the model; the folder's name unless given. The target must not exist unless `replace`.
    finishing: called with the folder and the manifest so far before digests are taken, to add files that depend on the outcome (the report).
    Raises ModelError (the model and its slice do not agree), BundleError (no form gives the trained model's scores; the target exists),
    ResourceError (disk full). Whatever is raised, also KeyboardInterrupt, nothing is left behind.
    """
    trained = model.check()
    target = Path(target)
    chosen = check_name(name or target.name)
    with staging.staged(target, replace=replace) as folder:
        _write_documents(folder, documents, files or {})
        draft = _draft(trained, chosen, version, tolerance, native.save(trained, folder), dict(provenance or {}))
        draft, doubt = judge_native(folder, trained, draft)
        if trained.framework == "keras":
            draft = draft.model_copy(update={"saved_model": write_saved_model(folder, trained, tolerance)})
        draft = judge_onnx(folder, trained, draft, tolerance)
        if doubt and not draft.onnx.accepted:
            raise BundleError(f"no form of the model gives its scores: native: loaded again, {doubt}; ONNX: {draft.onnx.reason}")
        staging.write_bytes(folder / tfaas.PARAMS, tfaas.params_text(draft, description).encode())
        staging.write_bytes(folder / tfaas.LABELS, tfaas.labels_text(draft).encode())
        if finishing is not None:
            finishing(folder, draft)
        manifest = finish(folder, draft)
    return manifest


def finish(folder: Path, draft: Manifest) -> Manifest:
    """Write the manifest of a folder that is otherwise complete, with the digest of every file."""
    listed = {path.relative_to(folder).as_posix(): staging.digest(path) for path in staging.files_below(folder) if path != folder / MANIFEST}
    manifest = Manifest.model_validate({**draft.model_dump(), "files": listed})
    (folder / MANIFEST).write_text(manifest.text(), "utf-8")
    return manifest


def read_bundle(path: Path | str, verify: bool = True) -> Bundle:
    """Open a bundle: a folder, or a .tar.gz of one, which is unpacked into a temporary folder.

    verify: compare every file with its SHA-256. Digests find damage; they do not prove who made the bundle.
    Raises BundleError: missing or changed files, a path that leaves the bundle, a link, another format.
    """
    path = Path(path)
    if path.is_file() and path.name != MANIFEST:
        from mlaas.models.archive import unpack

        folder = Path(tempfile.mkdtemp(prefix="mlaas-bundle-"))
        try:
            bundle = Bundle(folder / "bundle", unpack(path, folder / "bundle"))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(bundle, shutil.rmtree, folder, ignore_errors=True)
        return bundle
    folder = path.parent if path.is_file() else path
    manifest = read_manifest(folder)
    if verify:
        verify_files(folder, manifest)
    return Bundle(folder, manifest)


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare the files of a bundle with the manifest. Raises BundleError naming the first that is missing, a link, or changed."""
    root = folder.resolve()
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"the bundle {folder} is damaged: {name} is missing")
        if path.resolve() != root / name:
            raise BundleError(f"the bundle {folder} is damaged: {name} is a link")
        try:
            found = staging.digest(path)
        except OSError as error:
            raise BundleError(f"the bundle {folder} is damaged: {name} cannot be read: {error.strerror}") from None
        if found != expected:
            raise BundleError(f"the bundle {folder} is damaged: {name} has changed since it was written (its SHA-256 differs from the manifest's)")


def json_text(document: Any) -> str:
    """JSON with NaN and infinities as null, which is all that JSON has for them."""
    return json.dumps(_plain(document), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return _plain(value.tolist())
    return str(value) if isinstance(value, Path) else value


def _write_documents(folder: Path, documents: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    for name in [*documents, *files]:
        _free_name(name)
    for name, document in documents.items():
        data = document if isinstance(document, bytes) else document.encode() if isinstance(document, str) else json_text(document).encode()
        staging.write_bytes(folder / name, data)
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copyfile(source, folder / name)


def _free_name(name: str) -> None:
    try:
        safe_path(name)
    except ValueError as error:
        raise BundleError(str(error)) from None
    if name in RESERVED or name.split("/")[0] in RESERVED_FOLDERS:
        raise BundleError(f"{name} cannot be added to a bundle: the bundle writes it itself")


def _draft(trained: TrainedModel, name: str, version: int, tolerance: float, record: NativeRecord, provenance: dict[str, Any]) -> Manifest:
    """A manifest before the forms are judged; `model_construct` because the files are not listed yet."""
    framework: Framework = trained.framework  # type: ignore[assignment]
    return Manifest.model_construct(
        name=name,
        version=version,
        created=now(),
        framework=framework,
        task=trained.task,
        classes=list(trained.classes),
        output=trained.output,
        width=trained.width,
        mask=trained.wants_mask,
        engine="native",
        onnx=OnnxRecord(accepted=False, tolerance=tolerance),
        native=record,
        files={},
        versions=versions(framework),
        provenance=_plain(provenance),
    )
