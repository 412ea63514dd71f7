"""The manifest of a bundle: what it holds, how to load it, and the SHA-256 of every other file."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from platform import python_version
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlaas.errors import BundleError
from mlaas.models.scores import Output, Task

FORMAT: Literal[1] = 1
MANIFEST = "manifest.json"
MAX_BYTES = 64 * 1024 * 1024
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"

Framework = Literal["keras", "torch", "sklearn", "xgboost", "tensorflow", "onnx"]  # the last two: models that were trained elsewhere
EngineKind = Literal["onnx", "native"]

PACKAGES: dict[Framework, tuple[str, ...]] = {
    "keras": ("keras", "tensorflow", "tf2onnx"),
    "torch": ("torch", "onnxscript", "safetensors"),
    "sklearn": ("scikit-learn", "skops", "skl2onnx"),
    "xgboost": ("xgboost", "onnxmltools"),
    "tensorflow": (),
    "onnx": (),
}


def safe_path(path: str) -> str:
    """Return a relative path that stays inside its folder, or raise ValueError."""
    parts = PurePosixPath(path).parts
    if not path or "\\" in path or "\0" in path or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path or path == ".":
        raise ValueError(f"{path!r} is not a path inside the bundle")
    return path


RelativePath = Annotated[str, AfterValidator(safe_path)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class OnnxRecord(_Record):
    """What the parity gate found: the largest absolute difference of canonical scores, and why the ONNX form was refused, if it was."""

    accepted: bool
    difference: float | None = None
    tolerance: float
    reason: str = ""


class NativeRecord(_Record):
    """The framework's own form.

    form: the file to load. files: all files of this form. trust: loading it can run code, so it is loaded only when asked to.
    method: scikit-learn: the method that gives the raw output. missing: XGBoost: the value that means "missing" (null is NaN).
    difference: largest absolute difference between the scores of the form loaded again and those of the trained model. note: what a user should know.
    """

    form: RelativePath
    files: list[RelativePath]
    trust: bool = False
    method: str = ""
    missing: float | None = None
    difference: float | None = None
    note: str = ""


class SavedModelRecord(_Record):
    """The TensorFlow SavedModel at the top of the bundle: its nodes in the graph (as TFaaS names them) and its parity with the trained model."""

    input_node: str = ""
    output_node: str = ""
    accepted: bool
    difference: float | None = None
    reason: str = ""


class TensorRecord(_Record):
    """An input or an output of a model that was trained elsewhere.

    dtype: as the Open Inference Protocol names it ("FP32"). shape: -1 where any length is taken. node: its name in a frozen graph.
    """

    name: str
    dtype: str
    shape: list[int]
    node: str = ""


class TensorsRecord(_Record):
    """What is known of a model that was trained elsewhere and uploaded: it takes tensors, not features.

    form: a TensorFlow 1 graph with its variables frozen, a TensorFlow 2 SavedModel, or an ONNX graph. signature: of the SavedModel.
    answer: the output that the calls of one row and of images give back. channels: of images, where the user said so (params.json, img_channels).
    """

    form: Literal["frozen", "saved_model", "onnx"]
    inputs: list[TensorRecord] = []
    outputs: list[TensorRecord] = []
    signature: str = ""
    answer: str = ""
    channels: Annotated[int, Field(ge=0, le=4)] = 0


class Manifest(_Record):
    """The document `manifest.json`. Only a model that was trained elsewhere has `tensors`; its width is 0 unless it takes one matrix of numbers."""

    format: Literal[1] = FORMAT
    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[int, Field(ge=1)]
    created: datetime
    framework: Framework
    task: Task
    classes: list[str]
    output: Output
    width: Annotated[int, Field(ge=0)]
    mask: bool
    engine: EngineKind
    onnx: OnnxRecord
    native: NativeRecord
    saved_model: SavedModelRecord | None = None
    tensors: TensorsRecord | None = None
    files: dict[RelativePath, Digest]
    versions: dict[str, str]
    provenance: dict[str, Any] = {}
    job: str = Field("", description="the job that made this version of a repository")

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        forms = [*self.native.files, *(["model.onnx"] if self.onnx.accepted else [])]
        absent = [path for path in [self.native.form, *forms] if path not in self.files]
        if absent:
            raise ValueError(f"{absent[0]} is used but not listed in files")
        if self.engine == "onnx" and not self.onnx.accepted:
            raise ValueError("engine is onnx, but the ONNX form was not accepted")
        if self.width < 1 and self.tensors is None:
            raise ValueError("width must be at least 1")
        if self.task == "classification" and len(self.classes) < 2:
            raise ValueError("a classification needs at least 2 classes")
        return self

    def text(self) -> str:
        """The manifest as it is written."""
        return self.model_dump_json(indent=2) + "\n"


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it can be the name of a folder in a repository. Raises BundleError."""
    if not re.match(NAME, name) or "\n" in name:
        raise BundleError(f"{what}: {name!r} must be up to 100 letters, digits, '_', '.' and '-', beginning with a letter or a digit")
    return name


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def versions(framework: Framework) -> dict[str, str]:
    """The versions of Python, of this package and of the libraries that made the bundle."""
    found = {"python": python_version()}
    for package in ("mlaas", "numpy", "onnx", "onnxruntime", *PACKAGES[framework]):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a bundle. Raises BundleError when it is missing, damaged or of another format."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(f"there is no bundle at {folder}")
    if not path.is_file() or path.is_symlink():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BundleError(f"{path} is larger than {MAX_BYTES // 2**20} MiB, too large for a manifest")
        return parse_manifest(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError:
        raise BundleError(f"{path} is not a text file") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def parse_manifest(text: str, where: str) -> Manifest:
    """Check the text of a manifest; `where` is named in errors."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # also numbers of thousands of digits
        raise BundleError(f"{where} is not JSON") from None
    if not isinstance(document, dict) or "format" not in document:
        raise BundleError(f"{where} is not the manifest of a bundle: it has no field 'format'")
    if document["format"] != FORMAT:
        raise BundleError(f"{where} has bundle format {document['format']!r}; this version of mlaas reads format {FORMAT}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in item["loc"] if part != "[key]")
        raise BundleError(f"{where}: {field + ': ' if field else ''}{re.sub('^Value error, ', '', item['msg'])}") from None
