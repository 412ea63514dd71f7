"""Write the templates, their types, the play and the forms from the table of inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined

from mlaas.errors import UserError
from mlaas.tosca import forms
from mlaas.tosca.table import Project, Table, source, table

_PLAIN = {name: name for name in ("README.md", "artifacts/deploy.yml", "types.yaml")} | {
    "catalogue/docker-compose/docker-compose.parameters.yml": "docker-compose.parameters.yml"
}


def render(where: Project) -> dict[str, str]:
    """All files by their paths below `tosca/`."""
    known = table(where)
    made = {path: _fill(known, f"{name}.j2") for path, name in _PLAIN.items()}
    for stem, template in known.templates.items():
        made[f"{stem}.yaml"] = _fill(known, f"{stem}.yaml.j2", template=template)
    return made | forms.render(known, {stem: made[f"{stem}.yaml"] for stem in known.templates})


def write(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write what differs; returns the paths of what was written."""
    written = []
    for name, text in files.items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        written.append(path)
    return written


def stale(files: Mapping[str, str], folder: Path) -> list[Path]:
    """The paths whose content is not what the table gives."""
    return [folder / name for name, text in files.items() if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text]


def _fill(known: Table, name: str, **more: Any) -> str:
    environment = Environment(  # noqa: S701  it writes YAML, where HTML's quoting would be wrong
        loader=FunctionLoader(source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        variable_start_string="<<",  # the braces are Ansible's and TOSCA's
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters |= {"quoted": quoted, "flow": flow}
    where = known.project
    return environment.get_template(name).render(
        files=where.files,
        collection=where.collection,
        version=where.version,
        author=where.author,
        properties=known.properties,
        inputs=known.inputs,
        tabs=known.tabs,
        templates=known.templates,
        ports=next(iter(known.templates.values())).ports,
        **more,
    )


def quoted(value: Any) -> str:
    """A scalar for YAML: text always in quotes, so that nothing is taken for a number or for a truth value."""
    return json.dumps(value, ensure_ascii=False)


def flow(value: Any) -> str:
    """A mapping or list on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.strip()
