"""Models that users upload: they become bundles, are loaded once in a sandbox, and only then appear as the next version of their model."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mlaas import beneath, unpacking
from mlaas.errors import BundleError, ResourceError
from mlaas.inference import receive
from mlaas.inference.receive import Part
from mlaas.inference.served import Pool
from mlaas.models.bundle import Bundle, finish, read_bundle
from mlaas.models.manifest import MANIFEST, Framework, Manifest, NativeRecord, OnnxRecord, TensorsRecord, check_name, now
from mlaas.models.repository import Repository
from mlaas.models.tensors import matrix_width
from mlaas.models.tfaas import LABELS, PARAMS
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.sizes import write_size
from mlaas.web.problem import Problem

Form = Literal["frozen", "saved_model", "onnx"]
SAVED_MODEL = "saved_model.pb"
FILE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
FILES = 10_000
INPUTS = ("input_node", "inputNode", "input_name")
OUTPUTS = ("output_node", "outputNode", "output_name")
FROM = "it was trained elsewhere and uploaded"


class Uploads:
    """Takes uploads in and publishes them. pool: loads a folder in a process of its own and says what its model takes."""

    def __init__(self, settings: Settings, places: Places, pool: Pool) -> None:
        self._settings = settings
        self._places = places
        self._repository = Repository(places.repository)
        self._pool = pool

    @contextmanager
    def room(self) -> Iterator[Path]:
        """A folder for one upload, gone at the end."""
        folder = self._places.uploads / f"model-{secrets.token_hex(16)}"
        folder.mkdir(mode=0o711, parents=True)
        try:
            yield folder
        finally:
            beneath.remove_tree(folder)

    @property
    def limits(self) -> receive.Limits:
        """What one upload may be."""
        return receive.Limits(self._settings.inference_model_limit, self._settings.free_disk)

    async def from_form(self, parts: dict[str, Part], room: Path, tenant: str, coded: bool) -> Bundle:
        """Publish what a form holds: name, params, model, labels. coded: the model is in base64. Raises Problem."""
        name = await asyncio.to_thread(_form, parts, room / "bundle", coded)
        return await self._finish(room / "bundle", name, tenant)

    async def from_archive(self, path: Path, room: Path, tenant: str, name: str = "") -> Bundle:
        """Publish what an archive holds, a model in its only folder (which names it) or at its top. Raises Problem."""
        folder, found = await asyncio.to_thread(self._unpack, path, room)
        return await self._finish(folder, name or found, tenant)

    def _unpack(self, path: Path, room: Path) -> tuple[Path, str]:
        folder = room / "unpacked"
        folder.mkdir()
        settings = self._settings
        limits = unpacking.Limits(FILES, 4 * settings.inference_model_limit, settings.free_disk)
        try:
            unpacking.unpack(path, folder, limits)
        except unpacking.ArchiveError as error:
            raise Problem(error.status, str(error)) from None
        except ResourceError as error:
            raise Problem(507, str(error)) from None
        entries = list(folder.iterdir())
        if len(entries) == 1 and entries[0].is_dir():
            return entries[0], entries[0].name
        return folder, str(_params(folder).get("name") or "")

    async def _finish(self, folder: Path, name: str, tenant: str) -> Bundle:
        try:
            await asyncio.to_thread(self._check_room, tenant, folder)
            if (folder / MANIFEST).exists():
                bundle = await asyncio.to_thread(read_bundle, folder)
                if not name:
                    name = bundle.manifest.name
                await asyncio.to_thread(_open_up, folder)
                await self._pool.probe(folder, tenant)
            else:
                bundle = await self._foreign(folder, _name(name), tenant)
            published = await asyncio.to_thread(self._repository.publish, bundle, tenant, _name(name))
        except ResourceError as error:
            raise Problem(507, str(error)) from None
        except BundleError as error:
            raise Problem(422, _local(str(error), folder), field="model") from None
        await self._pool.adopt(folder, published)
        return published

    async def _foreign(self, folder: Path, name: str, tenant: str) -> Bundle:
        draft = await asyncio.to_thread(draft_of, folder, name)
        record = await self._pool.probe(folder, tenant)
        labels = draft.classes if _fit(draft.classes, record) else []
        update = {"tensors": record, "width": matrix_width(record), "classes": labels, "task": "classification" if labels else "regression"}
        return Bundle(folder, await asyncio.to_thread(finish, folder, draft.model_copy(update=update)))

    def _check_room(self, tenant: str, folder: Path) -> None:
        root = self._places.repository / tenant
        used = beneath.usage_beneath(root) if root.is_dir() else 0
        if used + beneath.usage_beneath(folder) > self._settings.user_disk:
            raise Problem(507, f"your models would take more than {write_size(self._settings.user_disk)}, which is the most of one user; delete some")


def draft_of(folder: Path, name: str) -> Manifest:
    """Make a bundle of a folder with a model that was trained elsewhere; its inputs and outputs are not known yet. Raises Problem."""
    params = _params(folder)
    said = str(params.get("name") or name)
    if said != name:
        raise Problem(422, f"params.json names the model {said!r}, but the upload {name!r}", field="params")
    form, file = _model(folder, params)
    labels = _labels(folder, params)
    document = {"name": name, "model": file, "labels": LABELS, "description": "", "timestamp": now().isoformat(), **params}
    (folder / PARAMS).write_text(json.dumps({**document, "labels": LABELS, "model": file}, indent=2) + "\n", "utf-8")
    (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
    framework: Framework = "onnx" if form == "onnx" else "tensorflow"
    draft = Manifest.model_construct(
        name=name,
        version=1,
        created=now(),
        framework=framework,
        task="regression",
        classes=labels,
        output="value",
        width=0,
        mask=False,
        engine="native",
        onnx=OnnxRecord(accepted=False, tolerance=0.0, reason=FROM),
        native=NativeRecord(form=file, files=[file], trust=True, note=FROM),
        tensors=_record(form, params),
        files={},
        versions={},
        provenance={"uploaded": True},
    )
    _open_up(folder)
    finish(folder, draft.model_copy(update={"classes": []}))
    return draft


def _form(parts: dict[str, Part], folder: Path, coded: bool) -> str:
    """Lay the parts of a form out as a folder; returns the model's name."""
    folder.mkdir()
    for part in ("name", "params", "model"):
        if part not in parts:
            raise Problem(422, f"the form lacks the part {part!r}; it has name, params, model and labels", field=part)
    name = _name(parts["name"].text("name").strip())
    params = parts["params"].text("params")
    (folder / PARAMS).write_text(params, "utf-8")
    document = _params(folder)
    file = str(document.get("model") or parts["model"].filename or "model.pb")
    if not re.fullmatch(FILE, file) or file in (PARAMS, LABELS, MANIFEST):
        raise Problem(422, f"{file!r} cannot be the name of a model file; use letters, digits, '_', '.' and '-'", field="model")
    (_decode if coded else _move)(parts["model"].path, folder / file)
    if "labels" in parts:
        labels = document.get("labels")
        (folder / LABELS).write_text(parts["labels"].text("labels"), "utf-8")
        if labels not in (None, "", LABELS):
            (folder / PARAMS).write_text(json.dumps({**document, "labels": LABELS}), "utf-8")
    return name


def _move(source: Path, target: Path) -> None:
    source.rename(target)


def _decode(source: Path, target: Path) -> None:
    """Undo base64, a piece at a time."""
    with source.open("rb") as read, target.open("xb") as write:
        rest = b""
        while chunk := read.read(2**20):
            data = rest + b"".join(chunk.split())
            whole = len(data) // 4 * 4
            rest = data[whole:]
            try:
                write.write(base64.b64decode(data[:whole], validate=True))
            except binascii.Error:
                raise Problem(422, "the model is not in base64, as the Content-Encoding says", field="model") from None
        if rest:
            raise Problem(422, "the model in base64 is cut off", field="model")


def _name(name: str) -> str:
    if not name:
        raise Problem(422, "the model has no name; put it into one folder of this name, or name it in params.json", field="name")
    try:
        return check_name(name)
    except BundleError as error:
        raise Problem(422, str(error), field="name") from None


def _params(folder: Path) -> dict[str, Any]:
    path = folder / PARAMS
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text("utf-8")) if path.stat().st_size <= receive.TEXT else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Problem(422, "params.json is not a JSON object", field="params")
    return document


def _model(folder: Path, params: dict[str, Any]) -> tuple[Form, str]:
    """Which file is the model, and of which kind."""
    if (folder / SAVED_MODEL).is_file():
        return "saved_model", SAVED_MODEL
    said = str(params.get("model") or "")
    found = [path.name for path in folder.iterdir() if path.is_file() and path.suffix in (".pb", ".onnx", ".graph")]
    if said and re.fullmatch(FILE, said) and (folder / said).is_file():
        found = [said]
    if len(found) != 1:
        kinds = "a SavedModel (saved_model.pb, variables/), a frozen graph (.pb with params.json), an ONNX graph (.onnx) or a bundle of this service"
        raise Problem(422, f"there is {'more than one model' if found else 'no model'} in the upload; send one of: {kinds}", field="model")
    return ("onnx" if found[0].endswith(".onnx") else "frozen"), found[0]


def _labels(folder: Path, params: dict[str, Any]) -> list[str]:
    for name in (str(params.get("labels") or ""), LABELS):
        path = folder / name
        if re.fullmatch(FILE, name) and path.is_file():
            return Part(name, path).text("labels").splitlines()
    return []


def _record(form: Form, params: dict[str, Any]) -> TensorsRecord:
    """What params.json says of inputs and outputs. In a SavedModel they are found; a frozen graph may need to be told."""
    try:
        channels = int(params.get("img_channels") or 0)
    except (TypeError, ValueError):
        channels = -1
    if not 0 <= channels <= 4:
        raise Problem(422, "params.img_channels must be 0 (no images), 1 (grey), 3 (RGB) or 4 (RGBA)", field="params.img_channels")
    node_in, node_out = (next((str(params[key]) for key in keys if params.get(key)), "") for keys in (INPUTS, OUTPUTS))
    if form != "frozen":
        return TensorsRecord(form=form, channels=channels, answer=str(params.get("output_name") or node_out))
    inputs = [{"name": node_in.split(":")[0], "dtype": "", "shape": [], "node": node_in}] if node_in else []
    outputs = [{"name": node_out.split(":")[0], "dtype": "", "shape": [], "node": node_out}] if node_out else []
    return TensorsRecord.model_validate({"form": form, "channels": channels, "inputs": inputs, "outputs": outputs, "answer": node_out})


def _fit(labels: list[str], record: TensorsRecord) -> bool:
    """Whether there is a label for each number of the answer, as far as their number is known."""
    shape = next((output.shape for output in record.outputs if output.name == record.answer), [])
    return len(labels) > 1 and len(shape) > 1 and shape[-1] in (-1, len(labels))


def _open_up(folder: Path) -> None:
    """Let a process without rights read it: what is closed to others is the folder above."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _local(sentence: str, folder: Path) -> str:
    """A sentence without the path of the folder that only this machine knows."""
    return sentence.replace(f"{folder}/", "").replace(str(folder), "the upload")
