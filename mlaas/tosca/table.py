"""The table of inputs: what a user may set, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from mlaas import __version__


@dataclass(frozen=True)
class Project:
    """Where a version of the project is published."""

    files: str
    collection: str
    guide: str
    author: str
    version: str


@dataclass(frozen=True)
class Input:
    """One input: how TOSCA declares it, how forms show it, which role variable and setting it becomes."""

    name: str
    description: str
    default: Any
    tab: str
    type: str = "string"
    values: tuple[Any, ...] = ()
    range: tuple[int, ...] = ()
    pattern: str = ""
    templates: tuple[str, ...] = ()
    variable: str = ""
    many: bool = False
    setting: str = ""
    file: str = ""
    optional: bool = False
    required: bool = False
    secret: bool = False
    updatable: bool = False
    form: Mapping[str, Any] = field(default_factory=dict)

    @property
    def constraints(self) -> list[dict[str, Any]]:
        """The constraints in TOSCA's words."""
        found: list[dict[str, Any]] = []
        if self.values:
            found.append({"valid_values": [*self.values]})
        if self.range:
            found.append({"in_range": [*self.range]})
        if self.pattern:
            found.append({"pattern": self.pattern})
        return found


@dataclass(frozen=True)
class Template:
    """A template: what it is called, and its inputs."""

    stem: str
    name: str
    title: str
    option: str
    description: str
    ports: list[dict[str, Any]]
    inputs: dict[str, Input]

    @property
    def properties(self) -> dict[str, Input]:
        """The inputs that the service gets as properties; the others describe machines."""
        return {name: input for name, input in self.inputs.items() if input.variable or name in PLAY}


@dataclass(frozen=True)
class Table:
    """All that is known of the templates."""

    project: Project
    tabs: list[str]
    inputs: dict[str, Input]
    templates: dict[str, Template]

    @property
    def properties(self) -> dict[str, Input]:
        """All properties of the service."""
        return {name: input for name, input in self.inputs.items() if input.variable or name in PLAY}


PLAY = ("dns_domain", "xrootd", "collection")  # what the play itself makes use of


def source(name: str) -> str:
    """The text of a file of the source."""
    return (resources.files("mlaas.tosca") / "source" / name).read_text(encoding="utf-8")


def project(version: str = "", files: str = "", collection: str = "") -> Project:
    """Where the project is published, for one version; addresses may hold `{version}`."""
    known = yaml.safe_load(source("project.yml"))
    version = version or __version__
    return Project(
        files=(files or known["files"]).replace("{version}", version).rstrip("/"),
        collection=collection or known["collection"],
        guide=known["guide"].replace("{version}", version),
        author=known["author"],
        version=version,
    )


def table(where: Project) -> Table:
    """The table for one version and its addresses."""
    document = yaml.safe_load(source("inputs.yml"))
    inputs = {name: _input(name, entry, where) for name, entry in document["inputs"].items()}
    known = yaml.safe_load(source("templates.yml"))
    templates = {
        stem: Template(
            stem=stem,
            ports=known["ports"],
            inputs={name: input for name, input in inputs.items() if not input.templates or stem in input.templates},
            **entry,
        )
        for stem, entry in known["templates"].items()
    }
    return Table(where, document["tabs"], inputs, templates)


def _input(name: str, entry: Mapping[str, Any], where: Project) -> Input:
    fields: dict[str, Any] = {key: tuple(value) if key in {"values", "range", "templates"} else value for key, value in entry.items()}
    if name == "version":
        fields["default"] = where.version
    if name == "collection":
        fields["default"] = where.collection
    return Input(name=name, **fields)
