"""Preproc: new branches and cuts. `Preproc` is the document, `plan` fits it to the branches of the files, `Plan` does the work.

All cuts must hold for an event to be kept. A jagged cut holds if any element (or all elements) of the event's list satisfies it: an empty list
fails "any" and passes "all". NaN satisfies nothing. Branches are removed after all cuts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Column, Columns, Jagged
from mlaas.data.evaluation import satisfied
from mlaas.data.expressions import Expression, compile_expression
from mlaas.data.files import Kind
from mlaas.data.preproc_document import Cut, FlatCut, JaggedCut, NewBranch, Preproc, order
from mlaas.data.syntax import quote
from mlaas.errors import ExpressionError, WorkflowError, nearest

__all__ = ["Cut", "FlatCut", "JaggedCut", "NewBranch", "Plan", "Preproc", "plan"]


@dataclass(frozen=True, slots=True)
class PlannedCut:
    """A cut ready to run; `place` names it in messages."""

    place: str
    cut: Cut
    condition: Expression

    def satisfied(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Which events pass, shape (n,). Raises WorkflowError when the values are neither true nor false."""
        value = self.condition.evaluate(columns)
        dtype = value.content.dtype if isinstance(value, Jagged) else value.dtype
        if dtype != np.bool_:
            _refuse(self.place, f"{quote(self.cut.text)} is not a condition but a number ({dtype}); write a comparison such as {self.cut.text}!=0")
        return satisfied(self.cut.quantifier or "all", value) if isinstance(value, Jagged) else value


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read, compute, cut and leave out.

    read: the file branches to read: the wanted ones and all that preproc names. needed: those without which the outputs cannot be made
    (prediction needs no more). outputs: the branches after everything, new ones last. kinds: of the outputs.
    """

    read: tuple[str, ...]
    needed: tuple[str, ...]
    outputs: tuple[str, ...]
    kinds: Mapping[str, Kind]
    definitions: tuple[tuple[str, Expression], ...] = field(repr=False)
    cuts: tuple[PlannedCut, ...] = field(repr=False)

    @property
    def selects(self) -> bool:
        """Whether there is any cut."""
        return bool(self.cuts)

    def define(self, columns: Columns) -> Columns:
        """The columns and the new branches; jagged ones share the offsets of the branches they are made of.

        A new branch that no output is made of (one for a cut only) is left out when `columns` lacks what it reads; any other then raises DataError.
        """
        return self._define(columns, self.outputs)

    def keep(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Which events pass all cuts, shape (n,), from columns as read or with the new branches."""
        if not self.cuts:
            return np.ones(columns.n, np.bool_)
        columns = self._define(columns, [name for cut in self.cuts for name in cut.condition.names])
        mask = self.cuts[0].satisfied(columns)
        for cut in self.cuts[1:]:
            mask = mask & cut.satisfied(columns)
        return mask

    def apply(self, columns: Columns, select: bool = True) -> Columns:
        """Define, select and leave out: exactly `outputs`, of the events that pass all cuts (of all events without `select`)."""
        everything = self.define(columns)
        outputs = everything.only(self.outputs)
        return outputs.select(self.keep(everything)) if select and self.cuts else outputs

    def _define(self, columns: Columns, required: Iterable[str]) -> Columns:
        """With the new branches: those that the required ones are made of, and the others that can be made."""
        missing = [(name, expression) for name, expression in self.definitions if name not in columns]
        if not missing:
            return columns
        based = columns.rebased()
        data: dict[str, Column] = dict(based.data)
        made = Columns(based.n, data)
        needed = _ancestors(required, dict(self.definitions))
        for name, expression in missing:
            if name in needed or expression.names <= data.keys():
                data[name] = expression.evaluate(made)
        return made


def plan(preproc: Preproc, kinds: Mapping[str, Kind], wanted: Sequence[str]) -> Plan:
    """Fit preproc to the branches of the files.

    kinds: all branches of the files. wanted: those that shall be features as far as preproc does not remove them.
    Raises WorkflowError naming the place in preproc: unknown branches (with the nearest), a name already taken, a type or category that does not fit.
    """
    for name in preproc.new_branch:
        if name in kinds:
            _refuse(f"new_branch.{name}", f"the files have a branch {name!r} already; choose another name")
    known: dict[str, Kind] = {**kinds, **{name: entry.type for name, entry in preproc.new_branch.items()}}
    for name in wanted:
        if name not in kinds:
            raise WorkflowError(f"params.selected_branches: there is no branch {name!r}{nearest(name, kinds)}")
    definitions = _definitions(preproc, known)
    _categories_fit(preproc, known)
    cuts = tuple(_planned(f"{category}.{name}.{cut.field}", name, cut, known) for category, name, cut in preproc.cuts())

    gone = _removed(preproc, known)
    outputs = tuple(name for name in dict.fromkeys([*wanted, *definitions]) if name not in gone)
    needed = _ancestors(outputs, definitions)
    named = [name for expression in definitions.values() for name in sorted(expression.names)]
    named += [name for cut in cuts for name in sorted(cut.condition.names)] + [*preproc.flat_cut, *preproc.jagged_cut, *sorted(gone)]
    read = tuple(name for name in dict.fromkeys([*wanted, *named]) if name in kinds)
    made = tuple((name, definitions[name]) for name in order({name: expression.names for name, expression in definitions.items()}))
    return Plan(read, tuple(name for name in read if name in needed), outputs, {name: known[name] for name in outputs}, made, cuts)


def _refuse(place: str, why: str) -> NoReturn:
    raise WorkflowError(f"preproc.{place}: {why}")


def _all_known(place: str, names: Iterable[str], known: Mapping[str, Kind]) -> None:
    for name in names:
        if name not in known:
            _refuse(place, f"there is no branch {name!r}{nearest(name, known)}")


def _compile(place: str, text: str, known: Mapping[str, Kind]) -> Expression:
    try:
        return compile_expression(text, known)
    except ExpressionError as error:
        raise WorkflowError(f"preproc.{place}: {error}") from None


def _definitions(preproc: Preproc, known: Mapping[str, Kind]) -> dict[str, Expression]:
    out: dict[str, Expression] = {}
    for name, entry in preproc.new_branch.items():
        expression = _compile(f"new_branch.{name}.def", entry.definition, known)
        if expression.kind != entry.type:
            _refuse(f"new_branch.{name}.type", f"is {entry.type!r}, but {quote(entry.definition)} is {expression.kind}; write {expression.kind!r}")
        out[name] = expression
    try:
        order({name: expression.names for name, expression in out.items()})
    except ValueError as error:
        _refuse("new_branch", str(error))
    return out


def _planned(place: str, name: str, cut: Cut, known: Mapping[str, Kind]) -> PlannedCut:
    _all_known(place, [name], known)
    condition = _compile(place, cut.text, known)
    if name not in condition.names:
        _refuse(place, f"{quote(cut.text)} does not use {name!r}")
    if not condition.condition:
        _refuse(place, f"{quote(cut.text)} is not a condition; write a comparison such as {name}>5")
    if cut.quantifier is None and known[name] == "flat" and condition.kind == "jagged":
        _refuse(place, f"{quote(cut.text)} gives a list per event; reduce it with any(...) or all(...), or cut on a jagged branch under jagged_cut")
    return PlannedCut(place, cut, condition)


def _categories_fit(preproc: Preproc, known: Mapping[str, Kind]) -> None:
    categories: tuple[tuple[str, Kind, str, Iterable[str]], ...] = (
        ("flat_cut", "flat", "jagged_cut", preproc.flat_cut),
        ("jagged_cut", "jagged", "flat_cut", preproc.jagged_cut),
    )
    for category, kind, other, names in categories:
        for name in names:
            _all_known(f"{category}.{name}", [name], known)
            if known[name] != kind:
                _refuse(f"{category}.{name}", f"branch {name!r} is {known[name]}; its cuts belong under {other}")


def _removed(preproc: Preproc, known: Mapping[str, Kind]) -> set[str]:
    gone: set[str] = set()
    for name, entry in preproc.new_branch.items():
        _all_known(f"new_branch.{name}.keys_to_remove", entry.keys_to_remove, known)
        gone.update(entry.keys_to_remove)
    for category in (preproc.new_branch, preproc.flat_cut, preproc.jagged_cut):
        gone.update(name for name, entry in category.items() if entry.remove)
    return gone


def _ancestors(names: Iterable[str], definitions: Mapping[str, Expression]) -> set[str]:
    """The branches and all that they are made of, step by step."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += definitions[name].names if name in definitions else ()
    return found
