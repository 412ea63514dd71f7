"""What `mlaas tosca` does."""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from mlaas.errors import MissingExtraError, UserError


def validate(options: Namespace) -> None:
    """Check files; name every mistake."""
    _with_extra()
    from mlaas.tosca import checks

    paths = [Path(name) for name in options.files or ["tosca"]]
    forms = [Path(name) for name in options.parameters or []]
    found = checks.check(paths, forms)
    for finding in found.findings:
        print(finding)
    if found.findings:
        files = len({finding.file for finding in found.findings})
        raise UserError(f"{_count(len(found.findings), 'mistake')} in {_count(files, 'file')}")
    print(f"good: {_count(len(found.checked), 'file')}")


def render(options: Namespace) -> None:
    """Write all files; print the paths of those that changed."""
    _with_extra()
    from mlaas.tosca import render as rendering
    from mlaas.tosca.table import project

    folder = Path(options.output)
    files = rendering.render(project(options.release, options.files, options.collection))
    if not options.check:
        for path in rendering.write(files, folder):
            print(path)
    elif old := rendering.stale(files, folder):
        raise UserError(f"not what the table of inputs gives: {', '.join(map(str, old))}; write them with mlaas tosca render --output={folder}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _with_extra() -> None:
    if not all(find_spec(name) for name in ("toscaparser", "yaml")):
        raise MissingExtraError("tosca-parser", "tosca")
