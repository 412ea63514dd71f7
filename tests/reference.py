"""Write mlaas/REFERENCE.md from the code: `make docs`. A test fails when the file is not current."""

from __future__ import annotations

import argparse
import math
import re
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlaas.cli import parser
from mlaas.settings import Settings
from mlaas.sizes import Size, write_size
from mlaas.workflow import Params

PATH = Path(__file__).parent.parent / "mlaas" / "REFERENCE.md"
HEAD = "# Reference\n\nWritten from the code by `make docs`; change the descriptions there.\n"


def reference() -> str:
    """The whole page."""
    parts = [
        HEAD,
        "## Commands\n",
        *map(command, commands()),
        "## Parameters\n\nThe keys of `params.json`.\n",
        parameters(),
        "## Settings\n",
        settings(),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def commands() -> list[argparse.ArgumentParser]:
    """The subcommands in the order of the help, each followed by its own."""
    return _below(parser())


def _below(stage: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    inner = [made for action in stage._actions if isinstance(action, argparse._SubParsersAction) for made in action.choices.values()]
    return [found for made in inner for found in (made, *_below(made))]


def command(stage: argparse.ArgumentParser) -> str:
    """The section of one subcommand."""
    rows = [
        (f"`{action.option_strings[-1] if action.option_strings else action.metavar}`", _text(_meaning(action)), "yes" if action.required else "")
        for action in shown(stage)
    ]
    example = (stage.epilog or "").removeprefix("example:\n").strip()
    return f"### {stage.prog}\n\n{stage.description}\n\n    {example}\n\n{_table(('flag', 'meaning', 'required'), rows)}"


def shown(stage: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command takes, without --help, subcommands, and what it takes only to refuse it."""
    hidden = argparse._HelpAction | argparse._SubParsersAction
    return [action for action in stage._actions if not isinstance(action, hidden) and action.help is not argparse.SUPPRESS]


def _meaning(action: argparse.Action) -> str:
    choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
    return f"{action.help}{choices}"


def parameters() -> str:
    """The table of `params.json`."""
    return _table(("key", "type", "default", "meaning"), _fields(Params))


def settings() -> str:
    """The table of the environment variables."""
    intro = "Set by environment variables; `mlaas version` shows those in force.\n\n"
    rows = [(f"`MLAAS_{name.strip('`').upper()}`", *rest) for name, *rest in _fields(Settings)]
    return intro + _table(("variable", "type", "default", "meaning"), rows)


def _fields(model: type[BaseModel]) -> list[tuple[str, ...]]:
    return [(f"`{name}`", _kind(field), _default(field), _text(field.description or "")) for name, field in model.model_fields.items()]


def _kind(field: FieldInfo) -> str:
    return "size" if _is_size(field) else _type(field.annotation)


def _is_size(field: FieldInfo) -> bool:
    return any(entry in field.metadata for entry in Size.__metadata__)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f'"{value}"' for value in arguments)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(dict.fromkeys(_type(part) for part in arguments if part is not types.NoneType))
    if origin is tuple:
        return f"[{', '.join(map(_type, arguments))}]"
    if origin is dict:
        return "JSON"
    if origin is list:
        return f"list of {_type(arguments[0])}"
    return {float: "number", int: "integer", bool: "true or false", str: "text", Path: "path"}[annotation]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return ""
    if _is_size(field):
        return write_size(value).replace(" ", "") if value else "0"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, Path):
        value = re.sub(rf"^{re.escape(str(Path.home()))}", "~", str(value))
    written = {"": '""', "True": "true", "False": "false", "[]": "[]", "{}": "{}"}
    return written.get(str(value), ", ".join(value) if isinstance(value, list) else str(value))


def _text(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    sys.exit(None if PATH.write_text(reference()) else 1)
