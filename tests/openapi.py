"""Write mlaas/server/openapi.json and the table of endpoints from the code: `make docs`. A test fails when they are not current."""

from __future__ import annotations

import sys
from pathlib import Path

from mlaas.server import openapi

README = Path(openapi.__file__).with_name("README.md")
BEGIN, END = "<!-- endpoints: written by `make docs` -->\n", "<!-- end -->\n"


def table() -> str:
    """The endpoints as a table."""
    rows = [("call", "what it does"), ("---", "---"), *((f"`{method} {path}`", summary) for method, path, summary in openapi.endpoints())]
    return "".join(f"| {call} | {summary} |\n" for call, summary in rows)


def readme(text: str) -> str:
    """The README with the table of now."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


def write() -> None:
    """Write both."""
    openapi.PATH.write_text(openapi.text())
    README.write_text(readme(README.read_text()))


if __name__ == "__main__":
    sys.exit(write())
