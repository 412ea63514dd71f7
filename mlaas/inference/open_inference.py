"""The Open Inference Protocol, version 2, over HTTP: JSON, and the extension for binary tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlaas import __version__
from mlaas.auth.identity import Identity
from mlaas.inference import tensors
from mlaas.inference.http import BINARY, JSON, Answer, from_json, to_json, told
from mlaas.inference.predictions import Predictions
from mlaas.inference.served import Array, Served, Tensor
from mlaas.web.problem import Problem

NAME = "mlaas"
EXTENSIONS = ("binary_tensor_data",)
LENGTH = b"inference-header-content-length"


def server_metadata() -> dict[str, Any]:
    """What the protocol tells of the server."""
    return {"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def reference_of(name: str, version: str = "") -> str:
    """The reference of a model that the protocol names by name and version (a number or an alias)."""
    if not version:
        return name
    if "@" in name.rpartition(":")[2]:
        raise Problem(400, f"give the version of {name!r} once: in the name or beside it", field="version")
    return f"{name}@{version}"


def model_metadata(served: Served, name: str, versions: Sequence[int]) -> dict[str, Any]:
    """What the protocol tells of a model."""
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": served.platform,
        "inputs": [_tensor(served, tensor) for tensor in served.inputs],
        "outputs": [_tensor(served, tensor) for tensor in served.outputs],
        "properties": properties(served),
    }


def properties(served: Served) -> dict[str, str]:
    """What one should know of a model beyond its tensors."""
    found = {"reference": served.reference, "task": served.task, "classes": ", ".join(served.classes)}
    if served.features is not None:
        branches = ", ".join(f"{name} ({branch.kind})" for name, branch in served.features.branches.items())
        found["x"] = "normalised features in the order of the columns, NaN where there is none"
        found["instead_of_x"] = f"raw events, a tensor per branch; of a jagged branch two, NAME.offsets and NAME.values: {branches}"
    return {name: text for name, text in found.items() if text}


def _tensor(served: Served, tensor: Tensor) -> dict[str, Any]:
    document: dict[str, Any] = {"name": tensor.name, "datatype": tensor.dtype, "shape": list(tensor.shape)}
    if tensor.name == "x" and served.features is not None:
        document["parameters"] = {"columns": served.features.columns}
    if tensor.name == "mask" and served.features is not None:
        document["parameters"] = {"optional": True, "content": "1 where there is padding; without it NaN in x marks padding"}
    return document


async def infer(predictions: Predictions, identity: Identity, name: str, version: str, body: bytes, json_length: bytes) -> Answer:
    """Answer a request for inference. json_length: the value of Inference-Header-Content-Length, empty when all is JSON."""
    header, rest = _split(body, json_length)
    request = from_json(header)
    if type(request) is not dict:
        raise Problem(400, 'the body must be an object: {"inputs": [...]}')
    served = await predictions.model(reference_of(name, version), identity)
    inputs = _inputs(request, rest)
    wanted = _outputs(request)
    found = await predictions.tensors(served, inputs, list(wanted))
    common = {"model_name": name, "model_version": str(served.version)}
    if isinstance(request.get("id"), str):
        common["id"] = request["id"]
    binary = _flag(request.get("parameters"), "binary_data_output", False)
    return answer(common, found, {name: _flag(wanted.get(name), "binary_data", binary) for name in found})


def answer(common: Mapping[str, Any], outputs: Mapping[str, Array], binary: Mapping[str, bool]) -> Answer:
    """The answer with its tensors, each as JSON or as bytes behind it."""
    documents, parts = [], []
    for name, array in outputs.items():
        document: dict[str, Any] = {"name": name, "datatype": tensors.dtype_name(array.dtype), "shape": list(array.shape)}
        if binary[name]:
            parts.append(tensors.to_bytes(array))
            document["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            document["data"] = tensors.texts(array) if array.dtype.kind in "OSU" else _listed(array)
        documents.append(document)
    header = to_json({**common, "outputs": documents})
    if not parts:
        return Answer(header)
    return Answer(b"".join([header, *parts]), BINARY, headers=[(LENGTH, b"%d" % len(header))])


def _listed(array: Array) -> Any:
    flat = array.ravel()
    return flat.astype("float32") if flat.dtype == "float16" else flat


def _split(body: bytes, json_length: bytes) -> tuple[bytes, memoryview]:
    if not json_length:
        return body, memoryview(b"")
    if not json_length.isdigit() or int(json_length) > len(body):
        raise Problem(400, "Inference-Header-Content-Length must be the length of the JSON at the beginning of the body")
    return body[: int(json_length)], memoryview(body)[int(json_length) :]


def _inputs(request: Mapping[str, Any], rest: memoryview) -> dict[str, Array]:
    given = request.get("inputs")
    if not isinstance(given, list) or not given:
        raise Problem(400, "inputs must be a list of tensors", field="inputs")
    found: dict[str, Array] = {}
    start = 0
    for position, item in enumerate(given):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name in found:
            raise Problem(400, f"inputs[{position}] must be an object with a name of its own", field=f"inputs[{position}].name")
        size = (item.get("parameters") or {}).get("binary_data_size") if isinstance(item.get("parameters"), dict | None) else None
        if size is None:
            found[name] = tensors.from_list(name, item.get("datatype"), item.get("shape"), item.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - start:
            raise Problem(400, f"inputs.{name}.parameters.binary_data_size does not fit the body: {len(rest) - start} bytes are left", field="inputs")
        found[name] = tensors.from_bytes(name, item.get("datatype"), item.get("shape"), rest[start : start + size])
        start += size
    if start != len(rest):
        raise Problem(400, f"the body has {len(rest) - start} bytes more than its inputs say", field="inputs")
    return found


def _outputs(request: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of each output that is asked for."""
    given = request.get("outputs")
    if given is None:
        return {}
    if not isinstance(given, list) or not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in given):
        raise Problem(400, "outputs must be a list of objects with a name", field="outputs")
    for item in given:
        if isinstance(item.get("parameters"), dict) and item["parameters"].get("classification"):
            raise Problem(400, "outputs: the extension for classification is not supported; take the scores", field="outputs")
    return {item["name"]: item.get("parameters") for item in given}


def _flag(parameters: Any, name: str, default: bool) -> bool:
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise Problem(400, f"parameters.{name} must be true or false", field=f"parameters.{name}")
    return value


def error(problem: Problem) -> Answer:
    """An error as the protocol tells it."""
    return told(problem, {"error": problem.detail}, JSON)
