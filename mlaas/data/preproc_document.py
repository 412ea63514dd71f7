"""The document of `mlaas.data.preproc` (`preproc.json`): new branches and cuts, checked when it is read, without any file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from mlaas.data.expressions import Expression, compile_expression
from mlaas.data.files import Kind
from mlaas.data.operations import CONSTANTS
from mlaas.errors import ExpressionError, nearest

Quantifier = Literal["any", "all"]
_CUT = re.compile(r"cut(_[0-9]+)?")
_COUNTED = '["{}", "any"] or ["{}", "all"]'


@dataclass(frozen=True, slots=True)
class Cut:
    """One condition on events; `quantifier` says how many elements of a jagged branch must satisfy it (None: the branch is flat)."""

    field: str
    text: str
    quantifier: Quantifier | None


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)  # pydantic reports this class with the field's place


def _compiled(text: str) -> Expression:
    try:
        return compile_expression(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from None


def _condition(text: str) -> str:
    if not text.strip():
        _refuse("the cut is empty; write a comparison such as x>5")
    if not _compiled(text).condition:
        _refuse(f"{text!r} is not a condition; write a comparison such as x>5 or 1<=x<5")
    return text


def _flat_cut(value: Any) -> Any:
    """Check the cut of a flat branch: a text."""
    if value is None:
        return None
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        _refuse(f'"any" and "all" are for jagged branches: write only "{value[0]}" for a flat one')
    if not isinstance(value, str):
        _refuse("a cut of a flat branch is a text such as 0<=x<=2")
    return _condition(value)


def _jagged_cut(value: Any) -> Any:
    """Check the cut of a jagged branch: a text and "any" or "all"."""
    if value is None:
        return None
    if isinstance(value, str):
        _refuse(f"a cut of a jagged branch says how many elements satisfy it: write {_COUNTED.format(value, value)}")
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        _refuse(f"a cut of a jagged branch is a list of two texts: write {_COUNTED.format('x>5', 'x>5')}")
    text, quantifier = value
    if quantifier not in ("any", "all"):
        _refuse(f'{quantifier!r} is neither "any" nor "all"')
    return _condition(text), quantifier


def _either_cut(value: Any) -> Any:
    return _flat_cut(value) if isinstance(value, str) else _jagged_cut(value)


def _flag(value: Any) -> Any:
    """Accept the booleans-as-strings of the published files ("True", "False")."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        _refuse('must be true or false (or "True" or "False")')
    return value


def _definition(value: Any) -> Any:
    if not isinstance(value, str):
        _refuse("must be an expression such as log(x)")
    _compiled(value)
    return value


def _kind(value: Any) -> Any:
    if value not in ("flat", "jagged"):
        _refuse('must be "flat" or "jagged"' + nearest(str(value), ["flat", "jagged"]))
    return value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) and value else [] if value in ("", None) else value


FlatText = Annotated[str | None, BeforeValidator(_flat_cut)]
JaggedText = Annotated[tuple[str, Quantifier] | None, BeforeValidator(_jagged_cut)]
EitherText = Annotated[str | tuple[str, Quantifier] | None, BeforeValidator(_either_cut)]
Flag = Annotated[bool, BeforeValidator(_flag)]


class _Entry(BaseModel):
    """What an entry of any category has: cuts (`cut`, `cut_1`, `cut_2`, ...) and `remove`."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=lambda schema: _published(schema))

    remove: Flag = Field(False, description="Leave the branch out of the features, after all cuts.")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            _refuse(f"must be an object such as {cls._example()}")
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in value:
            if key not in known and not _CUT.fullmatch(str(key)):
                _refuse(f"there is no key {key!r}{nearest(str(key), known)}; allowed are {', '.join(known)}, cut_1, cut_2, ...")
        return value

    @classmethod
    def _example(cls) -> str:
        return '{"cut": ...}'

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """All cuts: `cut` first, then by number."""
        given = {"cut": getattr(self, "cut", None), **(self.__pydantic_extra__ or {})}
        fields = sorted((name for name, value in given.items() if value is not None), key=lambda name: (int(name[4:] or -1), name))
        return tuple(Cut(name, value, None) if isinstance(value := given[name], str) else Cut(name, *value) for name in fields)

    def _written_cuts(self) -> dict[str, Any]:
        """The cuts as in a file, numbered from 1 when there are several: the same for all ways to write them."""
        values = [cut.text if cut.quantifier is None else [cut.text, cut.quantifier] for cut in self.cuts]
        return {"cut": values[0]} if len(values) == 1 else {f"cut_{number}": value for number, value in enumerate(values, 1)}

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {**self._written_cuts(), "remove": self.remove}


def _published(schema: dict[str, Any]) -> None:
    """Say in the JSON schema which further keys are allowed."""
    if more := schema.pop("additionalProperties", None):
        schema["patternProperties"] = {"^cut_[0-9]+$": more}
        schema["additionalProperties"] = False


def _does_something(entry: _Entry) -> _Entry:
    if not entry.cuts and not entry.remove:
        _refuse(f"has no cut; write {entry._example()}")
    return entry


class FlatCut(_Entry):
    """Cuts on a flat branch, each a text."""

    __pydantic_extra__: dict[str, FlatText]
    cut: FlatText = None

    @classmethod
    def _example(cls) -> str:
        return '{"cut": "0<=x<=2"}'


class JaggedCut(_Entry):
    """Cuts on a jagged branch, each a text and "any" (at least one element satisfies it) or "all" (every element does)."""

    __pydantic_extra__: dict[str, JaggedText]
    cut: JaggedText = None

    @classmethod
    def _example(cls) -> str:
        return '{"cut": ["x>5", "any"]}'


class NewBranch(_Entry):
    """A branch computed from others, with cuts on it if wanted."""

    __pydantic_extra__: dict[str, EitherText]
    definition: Annotated[str, BeforeValidator(_definition)] = Field(alias="def", description="Expression of other branches.")
    type: Annotated[Kind, BeforeValidator(_kind)] = Field(description='"flat" (one value per event) or "jagged" (a list per event).')
    cut: EitherText = None
    keys_to_remove: Annotated[list[str], BeforeValidator(_one_or_more)] = Field([], description="Branches to leave out once this one is computed.")

    @classmethod
    def _example(cls) -> str:
        return '{"def": "log(x)", "type": "flat"}'

    @model_validator(mode="after")
    def _cuts_fit_type(self) -> NewBranch:
        check = _flat_cut if self.type == "flat" else _jagged_cut
        for cut in self.cuts:
            try:
                check(cut.text if cut.quantifier is None else (cut.text, cut.quantifier))
            except ValueError as error:
                raise ValueError(f"{cut.field}: {error}") from None
        return self

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {"def": self.definition, "type": self.type, **self._written_cuts(), "remove": self.remove, "keys_to_remove": list(self.keys_to_remove)}


def _each_uses_its_branch(entries: dict[str, Any]) -> dict[str, Any]:
    for name, entry in entries.items():
        if not name.strip() or "`" in name:
            _refuse(f"{name!r} is not a name of a branch")
        for cut in entry.cuts:
            used = _compiled(cut.text)
            # A name such as `e` is a constant until the files say that it is a branch; `plan` decides.
            if name not in used.names and not (name in CONSTANTS and name in used.constants) and cut.text.strip() != name:
                _refuse_foreign(name, cut)
    return entries


def _refuse_foreign(name: str, cut: Cut) -> NoReturn:
    plain = name.isidentifier() or all(part.isidentifier() for part in name.split("."))
    hint = "" if plain else f"; write its name in backquotes: `{name}`"
    _refuse(f"{cut.field} of {name!r} is {cut.text!r}, which does not use {name!r}{hint}")


def order(definitions: Mapping[str, frozenset[str]]) -> list[str]:
    """Names of new branches in an order in which each can be computed; `definitions` gives the branches each reads.

    Raises ValueError naming a circle.
    """
    done: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            _refuse(f"new branches define each other in a circle: {' -> '.join([*path[path.index(name) :], name])}")
        path.append(name)
        for needed in sorted(definitions[name] & definitions.keys()):
            visit(needed)
        path.pop()
        done.append(name)

    for name in definitions:
        visit(name)
    return done


def _no_circle(entries: dict[str, NewBranch]) -> dict[str, NewBranch]:
    order({name: _compiled(entry.definition).names for name, entry in entries.items()})
    return entries


def _empty_if_null(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        _refuse("must be an object with one entry per branch")
    return value


_Category = [BeforeValidator(_empty_if_null), AfterValidator(_each_uses_its_branch)]
Filled = AfterValidator(_does_something)


class Preproc(BaseModel):
    """New branches and cuts; all three categories are optional, and all cuts must hold for an event to be kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    new_branch: Annotated[dict[str, NewBranch], *_Category, AfterValidator(_no_circle)] = {}
    flat_cut: Annotated[dict[str, Annotated[FlatCut, Filled]], *_Category] = {}
    jagged_cut: Annotated[dict[str, Annotated[JaggedCut, Filled]], *_Category] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_categories(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    _refuse(f"there is no category {key!r}{nearest(str(key), cls.model_fields)}; allowed are {', '.join(cls.model_fields)}")
        return value

    @model_validator(mode="after")
    def _one_category_each(self) -> Preproc:
        for name in self.flat_cut:
            if name in self.jagged_cut:
                _refuse(f"branch {name!r} stands in flat_cut and in jagged_cut; it can only be one of them")
        return self

    def cuts(self) -> Iterator[tuple[str, str, Cut]]:
        """Every cut with its category and branch, in the order of the document."""
        for category in ("new_branch", "flat_cut", "jagged_cut"):
            for name, entry in getattr(self, category).items():
                for cut in entry.cuts:
                    yield category, name, cut
