"""What a Python source defines at its top; a program of its own (source on stdin, JSON on stdout) that needs nothing but the standard library.

Text that is made for it can crash or stall Python's parser: `modelfile` runs this in a process with limits.
"""

from __future__ import annotations

import ast
import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

SECONDS = 10
MEMORY = 2**30  # bytes

Arguments = list[int]
"""Of a plain function: line, positional arguments, those with defaults, whether there is *args, keywords that must be given."""


def main() -> None:
    """Read, parse, tell: {"line", "fault"}, or {"names": {name: Arguments, or null where that cannot be told}}."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    print(json.dumps(parsed(sys.stdin.buffer.read())))


def parsed(source: bytes) -> dict[str, Any]:
    """What `main` tells."""
    try:
        return {"names": dict(defined(ast.parse(source).body))}
    except SyntaxError as error:
        return {"line": error.lineno, "fault": error.msg}
    except (ValueError, RecursionError, MemoryError) as error:
        return {"line": None, "fault": str(error) or "it is nested too deep"}


def defined(body: list[ast.stmt]) -> Iterator[tuple[str, Arguments | None]]:
    """The names that statements bind, also in their branches; "*" for what an import may bring."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, _arguments(node) if isinstance(node, ast.FunctionDef) and not node.decorator_list else None
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], None) for alias in node.names)
        else:
            yield from ((name, None) for name in _bound(node))
            for block in ("body", "orelse", "finalbody"):
                yield from defined(getattr(node, block, []))
            for branch in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
                yield from defined(branch.body)


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement assigns to itself, not in its branches."""
    parts = [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.stmt)]
    for part in parts:
        yield from (name.id for name in ast.walk(part) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))


def _arguments(node: ast.FunctionDef) -> Arguments:
    given = node.args
    needed = sum(default is None for default in given.kw_defaults)
    return [node.lineno, len(given.posonlyargs) + len(given.args), len(given.defaults), int(given.vararg is not None), needed]


if __name__ == "__main__":
    main()
