"""tosca-parser's own opinion, with the real addresses of imports left in and read from local files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from mlaas.tosca.document import Document, Finding, leaves


def parse(document: Document, imports: Mapping[str, Path]) -> Iterator[Finding]:
    """What tosca-parser refuses: unknown types and properties, missing requirements, values of a wrong type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what Python will drop
        load = import_module("toscaparser.tosca_template").ToscaTemplate
        known = import_module("toscaparser.common.exception")
    try:
        load(str(document.path.resolve()), local_defs={address: str(path.resolve()) for address, path in imports.items()})
    except known.TOSCAException as error:
        reasons = [" ".join(str(found).split()) for found in known.ExceptionCollector.getExceptions()] or [str(error)]
        for reason in dict.fromkeys(reasons):
            yield document.finding(_place(document, reason), f"tosca-parser: {reason}")
    except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:  # its own faults on what it does not expect
        yield document.finding((), f"tosca-parser cannot read it: {type(error).__name__}: {error}")
    finally:
        known.ExceptionCollector.stop()


def _place(document: Document, reason: str) -> tuple[str | int, ...]:
    """The place in the template of which the reason quotes the most names, or a value that it quotes."""
    names = set(re.findall(r'["\'`]([\w.-]+)["\'`]', reason))
    found = [
        (place, value)
        for place, value in leaves(document.data)
        if place[:1] == ("topology_template",) and (place[-1] in names or str(value) in names)
    ]
    return max((place for place, _ in found), key=lambda place: (sum(step in names for step in place), -len(place)), default=())
