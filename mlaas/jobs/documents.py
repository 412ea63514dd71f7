"""What a submission means: the workflow document with every file of the workspace found and every name written out.

Made twice, with the same result: when a job is submitted, to refuse what cannot run, and when it starts, to write its input.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from mlaas.beneath import read_beneath
from mlaas.data.choose import names_in
from mlaas.errors import DataError, WorkflowError
from mlaas.jobs import modelfile
from mlaas.jobs.requests import PredictRequest, TrainRequest
from mlaas.jobs.sources import Allowed
from mlaas.jobs.upload import Upload, check_text, normal
from mlaas.settings import Settings
from mlaas.workflow import Workflow, items_of, parse

MOST_NAMES = 10**6
"""Bytes of all file names of a prediction, which are arguments of its command; the system allows about 2 MB."""


@dataclass(frozen=True)
class Training:
    """A training as its job gets it. files: full paths and URLs; labels: one per file, or the branch; model: the full path of the Python file."""

    files: list[str]
    labels: list[str | int | float] | str
    model: str
    params: dict[str, Any]
    preproc: dict[str, Any]
    specs: dict[str, Any]
    dtype: str | None

    def check(self) -> Workflow:
        """The workflow document, checked. Raises WorkflowError naming the field and what is allowed."""
        given: dict[str, Any] = {"files": self.files, "labels": self.labels, "model": self.model, "params": self.params, "preproc": self.preproc}
        return parse(given | ({"dtype": self.dtype} if self.dtype else {}))


@dataclass(frozen=True)
class Prediction:
    """A prediction as its job gets it: full paths and URLs, and what bare names get as a prefix."""

    files: list[str]
    redirector: str


def training(request: TrainRequest, upload: Upload, settings: Settings, cpus: float) -> Training:
    """Find everything that a training names. Raises WorkflowError naming the field."""
    params = _params(upload, request, settings, cpus)
    found = Training(
        Allowed.of(upload, settings, str(params.get("redirector") or "")).paths(upload.names(request.files, "files")),
        _labels(upload, request),
        upload.path(request.model, "model"),
        params,
        _document(upload, request.preproc, "preproc"),
        _document(upload, request.specs, "specs"),
        request.dtype,
    )
    workflow = found.check()
    if request.device == "cpu" and workflow.params.device == "gpu":
        raise WorkflowError("params.device: gpu, but the job asks for the device cpu; submit it with device gpu")
    return found


def check_model(request: TrainRequest, upload: Upload) -> None:
    """Raise WorkflowError unless the model file is Python that defines `model(idim)`."""
    upload.path(request.model, "model")
    modelfile.check(read_beneath(upload.folder, normal(request.model), modelfile.LIMIT + 1), request.model)


def prediction(request: PredictRequest, upload: Upload | None, settings: Settings) -> Prediction:
    """Find the files of a prediction. Raises WorkflowError naming the field."""
    allowed = Allowed.of(upload, settings)
    given = items_of(request.files) if isinstance(request.files, str) else request.files
    files = allowed.paths(upload.names(request.files, "files") if upload else [entry.strip() for entry in given])
    if sum(len(path.encode()) + 1 for path in files) > MOST_NAMES:
        raise WorkflowError(f"files: the names of {len(files):,} files are too long for one job; predict them in several, or use wildcards")
    return Prediction(files, settings.redirector)


def _params(upload: Upload, request: TrainRequest, settings: Settings, cpus: float) -> dict[str, Any]:
    """The parameters as given; lists of branches that are files are read, and threads and redirector are those of the service."""
    found = dict(_document(upload, request.params, "params"))
    for name in ("selected_branches", "exclude_branches"):
        if name in found:
            found[name] = _branches(upload, found[name], f"params.{name}")
    if settings.redirector:
        found["redirector"] = settings.redirector
    if not found.get("workers"):
        found["workers"] = math.ceil(cpus)
    return found


def _branches(upload: Upload, given: Any, field: str) -> Any:
    """A list of branches; a single item may be the name of a file that holds it."""
    single = given[0] if isinstance(given, list) and len(given) == 1 else given
    if not isinstance(single, str) or "," in single or not single.strip() or not upload.has(single.strip()):
        return given
    try:
        return names_in([upload.path(single.strip(), field)])
    except DataError as error:
        raise WorkflowError(f"{field}: {str(error).replace(f'{upload.folder}/', '')}") from None


def _labels(upload: Upload, request: TrainRequest) -> list[str | int | float] | str:
    found = upload.labels(request.labels)
    if not found:
        raise WorkflowError("labels: there are none; give one label per file, or the name of the branch that holds it")
    for label in found if isinstance(found, list) else [found]:
        text = check_text(str(label), "labels")
        if text.startswith("#") or (isinstance(label, float) and not math.isfinite(label)):
            raise WorkflowError(f"labels: {text} is no label; use a number, or a name that does not begin with #")
    return found


def _document(upload: Upload, given: str | dict[str, Any] | None, field: str) -> dict[str, Any]:
    """A JSON object. What is given itself must be strict JSON, for the store takes nothing else."""
    try:
        json.dumps(given, allow_nan=False)
    except ValueError:
        raise WorkflowError(f'{field}: NaN and infinities are no JSON; write "NaN" as a text') from None
    except RecursionError:
        raise WorkflowError(f"{field}: nested too deep") from None
    return upload.document(given, field)
