"""A look at the user's model.py before its job is queued: it is Python and defines `model(idim)`. It is parsed, never run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from mlaas.errors import WorkflowError, nearest
from mlaas.jobs import modelparser

LIMIT = 10**6  # bytes


def check(source: bytes, name: str) -> None:
    """Raise WorkflowError unless the source parses and defines, assigns or imports `model`, as a function of one argument where that can be told."""
    if len(source) > LIMIT:
        raise WorkflowError(f"model: {name} is larger than {LIMIT // 10**6} MB; keep data out of it")
    found = _parsed(source, name)
    if "fault" in found:
        where = f", line {found['line']}" if found["line"] else ""
        raise WorkflowError(f"model: {name}{where}: not Python: {found['fault']}")
    names = found["names"]
    if "model" not in names and "*" not in names:
        raise WorkflowError(f"model: {name} does not define the function model(idim){nearest('model', names)}")
    if names.get("model"):
        _check_arguments(name, *names["model"])


def _check_arguments(name: str, line: int, positional: int, defaults: int, rest: int, needed: int) -> None:
    if needed or positional - defaults > 1 or not (positional or rest):
        raise WorkflowError(f"model: {name}, line {line}: model must take exactly one argument, the number of input columns: def model(idim)")


def _parsed(source: bytes, name: str) -> dict[str, Any]:
    command = [sys.executable, "-I", "-S", modelparser.__file__]
    try:
        done = subprocess.run(command, input=source, capture_output=True, check=True, timeout=3 * modelparser.SECONDS, env={})
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        raise WorkflowError(f"model: {name} cannot be parsed: it is nested too deep, or too much") from None
    return found
