"""tosca-parser's own opinion, with the real addresses of imports left in and read from local files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from mlaas.tosca.document import Document, Finding


def parse(document: Document, imports: Mapping[str, Path]) -> Iterator[Finding]:
    """What tosca-parser refuses: unknown types and properties, missing requirements, values of a wrong type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what Python will drop
        load = import_module("toscaparser.tosca_template").ToscaTemplate
        known = import_module("toscaparser.common.exception")
    try:
        load(str(document.path.resolve()), local_defs={address: str(path.resolve()) for address, path in imports.items()})
    except known.TOSCAException as error:
        for reason in _reasons(str(error)):
            yield document.finding(_place(document, reason), f"tosca-parser: {reason}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # its own faults on what it does not expect
        yield document.finding((), f"tosca-parser cannot read it: {type(error).__name__}: {error}")


def _reasons(text: str) -> Iterator[str]:
    """The single reasons out of its list, of which each has a line with the name of its exception."""
    found = [" ".join(part.split()) for part in re.split(r"\n\s*(?:\w+Error|\w+Exception|\w+): ", text.replace("\r", "")) if part.strip()]
    kept = [part for part in found if "failed pre-parser verification" not in part and "failed with:" not in part]
    yield from dict.fromkeys(kept or found)


def _place(document: Document, reason: str) -> tuple[str | int, ...]:
    """The deepest place in the template whose names are all quoted in the reason, as far as one is."""
    names = set(re.findall(r'["\'`]([\w.-]+)["\'`]', reason))
    places = [place for place in document.lines if place and place[0] == "topology_template" and place[-1] in names]
    return max(places, key=lambda place: (sum(step in names for step in place), -len(place)), default=())
