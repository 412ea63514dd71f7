"""YAML that remembers on which line everything stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mlaas.errors import UserError

Place = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Finding:
    """A mistake: in which file, on which line (from 1), and why it is one."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Document:
    """A YAML file: its data, and the line of each place in it (a key and its value have the same place)."""

    path: Path
    data: Any
    lines: Mapping[Place, int]
    findings: tuple[Finding, ...] = field(default=())

    def finding(self, place: Place, reason: str) -> Finding:
        """A mistake at this place, or at the nearest one around it that exists."""
        while place not in self.lines and place:
            place = place[:-1]
        return Finding(str(self.path), self.lines.get(place, 1), reason)

    def get(self, *place: str | int) -> Any:
        """What stands at this place; None where there is nothing."""
        found = self.data
        for step in place:
            if isinstance(found, dict):
                found = found.get(step)
            elif isinstance(found, list) and isinstance(step, int) and step < len(found):
                found = found[step]
            else:
                return None
        return found

    def mapping(self, *place: str | int) -> dict[str, Any]:
        """The mapping at this place; an empty one where there is none."""
        found = self.get(*place)
        return found if isinstance(found, dict) else {}


def read(path: Path) -> Document:
    """Read a file; what YAML itself cannot tell apart (keys given twice) is among the findings."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return Document(path, None, {}, (Finding(str(path), mark.line + 1 if mark else 1, f"no YAML: {error.problem}"),))
    except (yaml.YAMLError, ValueError) as error:
        return Document(path, None, {}, (Finding(str(path), 1, f"no YAML: {error}"),))
    lines: dict[Place, int] = {(): 1}
    twice: list[Finding] = []
    for place, line, again in _walk(node, ()):
        if again:
            twice.append(Finding(str(path), line, f"the key {place[-1]!r} is given twice; only the last one would count"))
        lines[place] = line
    return Document(path, data, lines, tuple(twice))


def _walk(node: yaml.Node | None, place: Place) -> Iterator[tuple[Place, int, bool]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            yield (*place, name), key.start_mark.line + 1, name in seen
            seen.add(name)
            yield from _walk(value, (*place, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1, False
            yield from _walk(value, (*place, index))


def leaves(data: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every mapping, list and scalar below, with its place."""
    yield place, data
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*place, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from leaves(value, (*place, index))
