"""The workflow document: files, labels, model, params and preproc, checked once; everything after it sees only it.

The command line, `POST /submit` and the API all build a `Workflow`. Bad input is refused here with the field's name and what is allowed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlaas.data.preproc import Preproc
from mlaas.data.sources import named_format
from mlaas.errors import WorkflowError, nearest

DType = Literal["root", "csv", "json", "parquet", "avro"]


def _flag(value: Any) -> Any:
    """Accept the booleans-as-strings of the published files ("True", "False")."""
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    return value


def _names(value: Any) -> Any:
    """Accept a list, a comma list, or "" for a list of branch names."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _padding(value: Any) -> Any:
    """Accept NaN as null or as a string."""
    if value is None:
        return math.nan
    if isinstance(value, str) and value.strip().lower() == "nan":
        return math.nan
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
Names = Annotated[list[str], BeforeValidator(_names)]

FLOAT32_MAX = 2.0**128 - 2.0**104
DEFAULT_IDENTIFIER = ["run", "event", "luminosityBlock"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True, validate_default=True, protected_namespaces=())


class Params(_Document):
    """The parameters of a training (`params.json`): the published keys first, then ours."""

    nevts: int = Field(-1, ge=-1, description="Entries to read over all files together, shared out in proportion to their sizes; -1 reads all.")
    chunk_size: int = Field(1000, ge=-1, description="Events per chunk over all files together; -1 puts everything into one chunk.")
    batch_size: int = Field(256, ge=1, description="Events per gradient step.")
    epochs: int = Field(10, ge=1, description="Passes over all data (procedure passes) or over each chunk (procedure chunks).")
    shuffle: Flag = Field(False, description="Shuffle inside each chunk, reproducible from `seed`.")
    identifier: Names = Field(
        DEFAULT_IDENTIFIER, description='Branches left out of the features: a list, a comma list, or "" for run,event,luminosityBlock.'
    )
    branch: str = Field("Events", min_length=1, description='Path of the TTree or RNTuple in the file; may contain "/".')
    selected_branches: Names = Field(
        [], description="Branches to use (list, comma list, or the name of a file with one per line; wildcards allowed); empty uses all."
    )
    exclude_branches: Names = Field([], description="Branches not to use (as selected_branches).")
    redirector: str = Field("root://cms-xrd-global.cern.ch", description="Prefix for bare paths that are not local files.")
    nan: Annotated[float, BeforeValidator(_padding)] = Field(
        math.nan, description="Padding value that the model sees; NaN (the default) pads with NaN, which becomes 0 at the model's door."
    )
    split: float | tuple[float, float] = Field(
        0.3, description="Held-out fraction, half of it for validation and half for the test; or [validation, test] fractions."
    )
    hist: Literal["", "pdfs", "pngs"] = Field("", description='"pdfs" or "pngs" writes one histogram picture per branch into the report.')
    verbose: int = Field(0, ge=0, description="0 shows progress, 1 adds details of the model, 2 adds timings.")

    procedure: Literal["passes", "chunks"] = Field(
        "passes",
        description="passes: `epochs` passes over all data, chunk by chunk. chunks: `epochs` passes over each chunk in turn (as the original).",
    )
    seed: int = Field(1, ge=0, le=2**63 - 1, description="Seed of the split, of shuffling and of the framework.")
    task: Literal["auto", "classification", "regression"] = Field(
        "auto", description="auto: classification, unless the label branch holds values that are not whole numbers."
    )
    classes: list[str | int | float] = Field([], description="The classes in order; empty takes them from the labels in ascending order.")
    weight: str = Field("", description="Event weight: a branch or an expression of flat branches, e.g. genWeight*puWeight.")
    file_weights: list[float] = Field([], description="One factor per file (cross-section weights), multiplied onto the event weight.")
    negative_weights: Literal["keep", "abs", "zero"] = Field(
        "keep",
        description="In training: keep negative weights, take their absolute value, or leave those events out. Evaluation always keeps the sign.",
    )
    class_balance: Flag = Field(False, description="Scale weights so that every class has the same sum of weights in training.")
    normalise: Literal["minmax", "none"] = Field("minmax", description="minmax: (v - min) / (max - min) from the specs; none: values as they are.")
    handled: Flag = Field(
        True, description="Keep the selected columns as handled data and train from there; false reads the files again at every pass."
    )
    workers: int = Field(0, ge=0, le=256, description="Threads that read files; 0 uses one per core.")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto uses a GPU when there is one.")
    early_stopping: int = Field(
        0, ge=0, description="Stop after this many epochs without improvement of the validation loss and keep the best model; 0 never stops."
    )
    loss: str = Field(
        "", description="PyTorch: name of a loss in torch.nn, e.g. BCEWithLogitsLoss; empty chooses by task. Others: compiled into the model."
    )
    optimizer: str = Field("", description="PyTorch: name of an optimiser in torch.optim; empty takes Adam.")
    learning_rate: float = Field(1e-3, gt=0, description="PyTorch: learning rate of the optimiser.")
    memory_limit: str = Field(
        "", description='Most memory for estimators that need all data at once, e.g. "4GB"; empty allows half of what is available.'
    )
    onnx_tolerance: float = Field(
        1e-5, gt=0, description="Largest difference between the ONNX form's scores and the native model's that is accepted."
    )

    @field_validator("identifier")
    @classmethod
    def _default_identifier(cls, value: list[str]) -> list[str]:
        return value or list(DEFAULT_IDENTIFIER)

    @field_validator("chunk_size", "nevts")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be -1 (all) or at least 1")
        return value

    @field_validator("nan")
    @classmethod
    def _finite_or_nan(cls, value: float) -> float:
        if abs(value) > FLOAT32_MAX:
            raise ValueError("must be NaN or a finite number of 32 bits, which the matrix holds")
        return value

    @field_validator("split")
    @classmethod
    def _fractions(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        parts = value if isinstance(value, tuple) else (value / 2, value / 2)
        if not all(math.isfinite(part) and part >= 0 for part in parts) or not sum(parts) < 1:
            raise ValueError("must be a fraction from 0 to below 1, or [validation, test] with a sum below 1")
        return value

    @field_validator("file_weights")
    @classmethod
    def _finite(cls, value: list[float]) -> list[float]:
        if not all(math.isfinite(weight) for weight in value):
            raise ValueError("must be finite numbers")
        return value

    @property
    def fractions(self) -> tuple[float, float]:
        """The validation and test fractions."""
        return self.split if isinstance(self.split, tuple) else (self.split / 2, self.split / 2)


class Workflow(_Document):
    """One training job, complete.

    files: paths, globs or URLs, in order. labels: one per file, or a single string naming the branch that holds the label.
    model: path of the Python file that defines `model(idim)`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] = "model"
    files: Annotated[list[str], Field(min_length=1)]
    labels: list[str | int | float] | str
    model: Path
    params: Params = Params()
    preproc: Preproc = Preproc()
    specs: Path | None = None
    dtype: DType | None = None

    @model_validator(mode="after")
    def _agree(self) -> Workflow:
        if self.params.file_weights and len(self.params.file_weights) != len(self.files):
            raise ValueError(f"params.file_weights: {len(self.params.file_weights)} weights for {len(self.files)} files; give one per file")
        if isinstance(self.labels, list) and len(self.labels) != len(self.files):
            raise ValueError(f"labels: {len(self.labels)} labels for {len(self.files)} files; give one per file, or the name of one branch")
        return self


def parse(document: Mapping[str, Any]) -> Workflow:
    """Check a document. Raises WorkflowError naming each wrong field and what is allowed."""
    try:
        return Workflow.model_validate(document)
    except ValidationError as error:
        raise WorkflowError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """One line per wrong field: its path, what is wrong, and the nearest known name if it is unknown."""
    lines = []
    for item in error.errors(include_url=False):
        where = _where(item["loc"])
        if item["type"] == "extra_forbidden":
            owner: type[BaseModel] = Params if item["loc"][0] == "params" else Workflow
            lines.append(f"{where}: unknown parameter{nearest(str(item['loc'][-1]), owner.model_fields)}")
        else:
            message = re.sub(r"^Value error, ", "", item["msg"])
            given = item.get("input")
            told = not isinstance(given, str | int | float | bool) or repr(given) in message
            shown = "" if told else f" (given: {given!r})"
            lines.append(f"{where}: {message}{shown}" if where else message)
    return "; ".join(dict.fromkeys(lines))


def _where(loc: tuple[int | str, ...]) -> str:
    """The field's path without pydantic's names for union members."""
    parts = [str(part) for part in loc if not re.match(r"^(float|tuple|list|str|int|bool|constrained|function)(\[|$|-)", str(part))]
    return ".".join(parts)


def read_lines(argument: str, field: str) -> list[str]:
    """Read a list argument: a text file with one item per line (`#` skips a line), or a comma list."""
    path = Path(argument)
    if path.is_file():
        try:
            return lines_of(path.read_text())
        except UnicodeDecodeError:
            raise WorkflowError(f"{field}: {argument} is not a text file; give a text file with one item per line, or a comma list") from None
    return items_of(argument)


def lines_of(text: str) -> list[str]:
    """The items of a text with one per line; `#` skips a line."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def items_of(text: str) -> list[str]:
    """The items of a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_json(path: str, field: str) -> dict[str, Any]:
    """Read a JSON object from a file. Raises WorkflowError when it is missing or not a JSON object."""
    try:
        return json_object(Path(path).read_text(), path, field)
    except FileNotFoundError:
        raise _missing(path, field) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{field}: {path} cannot be read: {error}") from None


def json_object(text: str, path: str, field: str) -> dict[str, Any]:
    """Read a JSON object from the text of a file. Raises WorkflowError when it is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkflowError(f"{field}: {path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise WorkflowError(f"{field}: {path} is nested too deep") from None
    except ValueError:
        raise WorkflowError(f"{field}: {path} holds a number of too many digits") from None
    if not isinstance(value, dict):
        raise WorkflowError(f"{field}: {path} must hold a JSON object, not {type(value).__name__}")
    return value


def from_flags(
    *,
    files: str,
    labels: str | None = None,
    model: str | None = None,
    params: str | None = None,
    preproc: str | None = None,
    specs: str | None = None,
    dtype: str | None = None,
    name: str | None = None,
    procedure: str | None = None,
) -> Workflow:
    """Build the document from the values of the published flags.

    files: a text file with one path per line, a comma list, or one file of events, told by its name (.root, .parquet, ...); a relative path
        in a text file is taken from the current folder or, if it is not there, from the folder of the text file.
    labels: a text file with one label per file, a comma list, a number (for one file), or one name: the branch that holds the label. None
        (specs need no labels) labels every file 0.
    model: the user's Python file; None where no model is needed. params, preproc, specs: JSON files; without params the defaults hold.
    Raises WorkflowError naming the field and what is allowed.
    """
    paths = _file_list(files)
    document: dict[str, Any] = {
        "files": paths,
        "labels": [0] * len(paths) if labels is None else parse_labels(labels),
        "model": _present(model, "model") if model is not None else "model.py",
        "params": read_json(params, "params") if params is not None else {},
        "preproc": read_json(preproc, "preproc") if preproc is not None else {},
    }
    if procedure is not None:
        document["params"] = {**document["params"], "procedure": procedure}
    given = {"specs": specs and _present(specs, "specs"), "dtype": dtype, "name": name}
    return parse(document | {field: value for field, value in given.items() if value})


def parse_labels(argument: str) -> list[str | int | float] | str:
    """The labels that `--labels` means: one per file, or the name of a branch (see `from_flags`)."""
    _not_a_missing_list(argument, "labels")
    values = [label_of(value) for value in read_lines(argument, "labels")]
    if not values:
        raise WorkflowError(f"labels: {argument or 'the value'} names no label; give one label per file, or the name of the branch that holds it")
    if Path(argument).is_file() or "," in argument or not isinstance(values[0], str):
        return values
    return values[0]


def label_of(text: str) -> str | int | float:
    """A number where the text is one, so that "1" in labels.txt is the class 1."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def _file_list(argument: str) -> list[str]:
    _not_a_missing_list(argument, "files")
    paths = [argument] if named_format(argument) and "," not in argument else read_lines(argument, "files")
    if not paths:
        raise WorkflowError(f"files: {argument or 'the value'} names no file; give a text file with one path per line, or a comma list")
    source = Path(argument)
    if not source.is_file() or paths == [argument]:
        return paths
    return [_beside(source, path) for path in paths]


def _beside(source: Path, path: str) -> str:
    """A path from the folder of the list that names it, if it is there and not here."""
    there = source.parent / path
    # not Path.is_file, which raises where a folder may not be entered: whoever opens the file says so
    return path if "://" in path or os.path.isfile(path) or not os.path.isfile(there) else str(there)  # noqa: PTH113


def _not_a_missing_list(argument: str, field: str) -> None:
    """A mistyped files.txt is not a comma list of one."""
    if argument.endswith((".txt", ".lst", ".list")) and "," not in argument and not Path(argument).is_file():
        raise _missing(argument, field)


def _present(path: str, field: str) -> str:
    if not Path(path).is_file():
        raise _missing(path, field)
    return path


def _missing(path: str, field: str) -> WorkflowError:
    """The error for a file that is not there, with the nearest name beside it."""
    known: list[str] = []
    with contextlib.suppress(OSError):
        known = [item.name for item in Path(path).parent.iterdir()]
    return WorkflowError(f"{field}: there is no file {path}{nearest(Path(path).name, known)}")
