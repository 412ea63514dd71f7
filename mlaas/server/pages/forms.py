"""What forms hold: texts as they were typed, turned into the documents that API v1 takes; errors beside the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from mlaas.auth.identity import Identity
from mlaas.errors import MLaaSError
from mlaas.jobs.fellows import machines
from mlaas.server import wire
from mlaas.server.deps import Context
from mlaas.web.errors import invalid, problem_of
from mlaas.web.problem import Problem

MOST_FILES = 2000
RESOURCES = ("cpus", "memory", "time_limit", "device")


class Errors(BaseModel):
    """What is wrong in a form: one sentence, and the field that it is about ("" for the whole)."""

    field: str = ""
    sentence: str = ""

    @classmethod
    def of(cls, error: Exception, fields: Mapping[str, Any]) -> Errors:
        """The error of a submission; `params.epochs` is about the field `params`."""
        problem = problem_of(error)
        first = problem.field.split(".")[0].split("[")[0]
        return cls(field=first if first in fields else "", sentence=problem.detail)


def request_of(document: Mapping[str, Any]) -> wire.JobRequest:
    """The submission that a document is. Raises Problem 422 naming the field."""
    model = wire.PredictRequest if document.get("kind") == "predict" else wire.TrainRequest
    try:
        return TypeAdapter[wire.JobRequest](model).validate_python(document)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from None


def training(form: Mapping[str, str]) -> dict[str, Any]:
    """The document of a training. Content that was typed goes before the name of a file. Raises Problem 422 for what is no JSON."""
    document: dict[str, Any] = {"workspace": form["workspace"], "model": form["model"].strip(), **resources(form)}
    for name in ("files", "labels"):
        document[name] = lines(form[f"{name}_text"]) or form[name].strip()
    for name in ("params", "preproc"):
        found = _object(name, form[f"{name}_text"]) or form[name].strip()
        if found:
            document[name] = found
    return document | ({"name": form["name"].strip()} if form["name"].strip() else {})


def prediction(form: Mapping[str, str]) -> dict[str, Any]:
    """The document of predictions of whole files."""
    document: dict[str, Any] = {"kind": "predict", "model": form["model"].strip(), "format": form["format"], **resources(form)}
    document["files"] = lines(form["files_text"]) or form["files"].strip()
    return document | {name: form[name].strip() for name in ("workspace", "tree") if form[name].strip()}


def resources(form: Mapping[str, str]) -> dict[str, str]:
    """What a job asks for, as far as it was given."""
    return {name: form[name].strip() for name in RESOURCES if form[name].strip()}


def lines(text: str) -> list[str]:
    """The lines that are neither empty nor comments."""
    found = (line.strip() for line in text.splitlines())
    return [line for line in found if line and not line.startswith("#")]


def _object(name: str, text: str) -> dict[str, Any] | None:
    if not text.strip():
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise Problem(422, f"{name}: this is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", field=name) from None
    except RecursionError:
        raise Problem(422, f"{name}: this is nested too deep", field=name) from None
    if not isinstance(found, dict):
        raise Problem(422, f"{name}: this must be a JSON object", field=name)
    return found


def workspace_files(parts: Context, who: Identity, name: str) -> list[str]:
    """The paths of the files of a workspace; none where there is no such workspace."""
    try:
        return sorted(entry.path for entry in parts.workspaces.files(who.tenant, name))[:MOST_FILES]
    except (MLaaSError, FileNotFoundError):
        return []


def has_gpus(parts: Context) -> bool:
    """Whether a job may ask for a GPU."""
    return any(machine.gpus for machine in machines(parts.settings, parts.engine))


def workspace_names(parts: Context, who: Identity) -> list[str]:
    """The names of the caller's workspaces."""
    return [record.name for record in parts.workspaces.listing(who.tenant, limit=200)]


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)
