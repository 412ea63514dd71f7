"""The preproc document (`preproc.json`): new branches and cuts, checked once, then planned against the branches of the files."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Preproc(BaseModel):
    """What is to be computed and cut before training; all three categories are optional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    new_branch: dict[str, dict[str, Any]] = {}
    flat_cut: dict[str, dict[str, Any]] = {}
    jagged_cut: dict[str, dict[str, Any]] = {}
