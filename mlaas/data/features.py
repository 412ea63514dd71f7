"""Features: everything needed to turn raw branches into the matrix that the model sees. A bundle carries it as features.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Columns
from mlaas.data.files import Branch
from mlaas.data.layout import Layout, Mask, Matrix, layout_from_json, layout_to_json
from mlaas.data.preproc import Plan, Preproc, plan
from mlaas.errors import BundleError


@dataclass(frozen=True)
class Features:
    """From raw branches to the feature matrix.

    layout: the matrix. preproc: new branches (and cuts, which prediction ignores). wanted: the file branches that were features before preproc.
    sources: the file branches that are read, by name. tree: the tree in the files, for prediction. padding: what the user asked padding to be.
    """

    layout: Layout
    preproc: Preproc
    wanted: tuple[str, ...]
    sources: Mapping[str, Branch]
    tree: str
    padding: float = math.nan

    @property
    def width(self) -> int:
        """The number of matrix columns."""
        return self.layout.width

    @property
    def columns(self) -> list[str]:
        """The name of each matrix column."""
        return self.layout.columns

    @cached_property
    def branches(self) -> dict[str, Branch]:
        """The raw branches that prediction needs: those of the matrix and those that new branches are made of."""
        return {name: self.sources[name] for name in self._plan.needed if name in self.sources}

    @cached_property
    def _plan(self) -> Plan:
        return plan(self.preproc, {name: branch.kind for name, branch in self.sources.items()}, self.wanted)

    @property
    def has_cuts(self) -> bool:
        """Whether the training selected events by cuts."""
        return self._plan.selects

    def selects(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Which events the cuts of the training keep, shape (n,); needs all of `sources`."""
        return self._plan.keep(columns)

    @property
    def door(self) -> float:
        """What padding becomes at the model's door."""
        return 0.0 if math.isnan(self.padding) else self.padding

    def define(self, columns: Columns) -> Columns:
        """The columns of the matrix that can be had, new branches among them, from raw ones; no event is left out."""
        made = self._plan.define(columns)
        return made.only([slot.name for slot in self.layout.slots if slot.name in made])  # `Layout.bind` names what is missing

    def vectorise(self, columns: Columns) -> tuple[Matrix, Mask]:
        """Raw branches to what the model sees: matrix, shape (n, width), float32, finite; mask of the same shape, true where padded."""
        x = np.empty((columns.n, self.width), np.float32)
        mask = np.empty((columns.n, self.width), np.bool_)
        self.layout.bind(self.define(columns)).fill(x, mask, 0, pad=self.door, nan=0.0)
        return x, mask

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "format": 1,
            "tree": self.tree,
            "padding": None if math.isnan(self.padding) else self.padding,
            "width": self.width,
            "slots": layout_to_json(self.layout),
            "wanted": list(self.wanted),
            "sources": {name: {"dtype": branch.dtype.str.lstrip("<>=|"), "kind": branch.kind} for name, branch in self.sources.items()},
            "preproc": self.preproc.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Features:
        """The inverse of `to_json`. Raises BundleError when the document is not one."""
        try:
            if document["format"] != 1:
                raise BundleError(f"features.json: format {document['format']!r} is not known; it needs a newer version of mlaas")
            sources = {name: Branch(name, np.dtype(found["dtype"]), found["kind"]) for name, found in document["sources"].items()}
            padding = math.nan if document["padding"] is None else float(document["padding"])
            preproc = Preproc.model_validate(document["preproc"])
            return cls(layout_from_json(document["slots"]), preproc, tuple(document["wanted"]), sources, document["tree"], padding)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"features.json is damaged: {str(error).splitlines()[0]}") from error
