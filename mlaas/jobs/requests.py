"""What a user asks for: the documents of a submission. API v1 takes them as they are, and the store keeps them in this form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlaas.sizes import Size

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"

Name = Annotated[str, Field(pattern=NAME, description="Up to 100 letters, digits, '_', '.' and '-', beginning with a letter or a digit.")]
Reference = Annotated[
    str,
    Field(
        min_length=1,
        max_length=310,
        description="A model: name, name@version or name@alias; of another tenant who shares it: tenant:name. Without a version the latest.",
    ),
]


class Resources(BaseModel):
    """What a job asks for. Numbers may be given as text, as the published server takes them."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    device: Literal["cpu", "gpu"] = "cpu"
    memory: Size | None = Field(None, description='Bytes, or text such as "3gb".')
    cpus: Annotated[float, Field(gt=0, le=4096)] | None = None
    gpus: Annotated[int, Field(ge=1, le=64)] | None = Field(None, description="With device gpu; 1 unless given.")
    time_limit: Annotated[float, Field(gt=0)] | None = Field(None, description="Seconds.")


class TrainRequest(Resources):
    """A training. Each of files, labels, params, preproc and specs is the name of a file of the workspace, or the content itself; model is a file."""

    kind: Literal["train"] = "train"
    workspace: Name
    files: str | list[str] = Field(description="File of the workspace with one path per line, a comma list, or a list of paths or URLs.")
    labels: str | list[str | int | float] = Field(description="File with a label per file, a list, or the name of the branch that holds the label.")
    model: str = Field(description="Python file of the workspace that defines model(idim).")
    params: str | dict[str, Any] = Field({}, description="JSON file of the workspace, or the parameters themselves.")
    preproc: str | dict[str, Any] | None = None
    specs: str | dict[str, Any] | None = None
    dtype: Literal["root", "csv", "json", "parquet", "avro"] | None = None
    name: Name | None = Field(None, description="Name of the model; unless given, that of the workspace.")


class PredictRequest(Resources):
    """Scores of whole files of raw events, as friend trees aligned by entry, or Parquet."""

    kind: Literal["predict"]
    model: Reference
    workspace: Name | None = None
    files: str | list[str]
    tree: str | None = None
    format: Literal["root", "parquet"] = "root"


JobRequest = TrainRequest | PredictRequest
