"""Write the README of each role from its argument_specs.yml: `python -m tests.roles_readme` (a part of `make docs`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
ROLES = sorted(path.parents[1] for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"))
NOTE = "<!-- Written from meta/argument_specs.yml by `make docs`; change it there. -->"


def spec(role: Path) -> dict[str, Any]:
    """The document of a role: what each of its entry points takes."""
    return yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]


def sentences(text: str | list[str]) -> str:
    """A description as one line of a table."""
    line = " ".join([text] if isinstance(text, str) else text).strip().replace("|", "\\|")
    line = re.sub(r"\b[CIOV]\(([^)]*)\)", r"`\1`", line)
    parts = re.sub(r"\bU\(([^)]*)\)", r"\1", line).split("`")
    return "`".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))


def kind(option: dict[str, Any]) -> str:
    """The type of an option, and what it may be."""
    name = option.get("type", "str")
    if name == "list" and "elements" in option:
        name = f"list of {option['elements']}"
    return name + (": " + ", ".join(f"`{choice}`" for choice in option["choices"]) if "choices" in option else "")


def default(option: dict[str, Any]) -> str:
    """The default of an option as it is written in YAML, or that it is needed."""
    if option.get("required"):
        return "needed"
    if "default" not in option:
        return ""
    value = option["default"]
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return "`" + text.replace("|", "\\|") + "`"


def rows(options: dict[str, Any], before: str = "") -> list[str]:
    """The rows of a table, those of the options within an option beneath it."""
    found = []
    for name, option in options.items():
        found.append(f"| `{before}{name}` | {kind(option)} | {default(option)} | {sentences(option['description'])} |")
        found += rows(option.get("options", {}), f"{before}{name}.")
    return found


def readme(role: Path) -> str:
    """The README of a role."""
    entries = spec(role)
    lines = [f"# Role {role.name}", "", NOTE, ""]
    for name, entry in entries.items():
        if name != "main":
            lines += [f"## tasks_from: {name}", ""]
        lines += [f"{sentences(entry['short_description'])}.", ""]
        lines += [line for text in entry.get("description", []) for line in (sentences(text), "")]
        lines += ["| variable | type | default | meaning |", "| --- | --- | --- | --- |", *rows(entry.get("options", {})), ""]
        if name == "main":
            lines += [f"Tags: `{role.name}`, `preflight`, `install`, `configure`, `run`.", ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    for role in ROLES:
        (role / "README.md").write_text(readme(role))


if __name__ == "__main__":
    main()
