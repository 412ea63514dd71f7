"""What a form of INFN's dashboard, and the entry of its catalogue, must be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlaas.errors import nearest
from mlaas.tosca.document import Document, Finding
from mlaas.tosca.values import misfits

TYPES = (
    "text",
    "textarea",
    "integer",
    "float",
    "boolean",
    "hidden",
    "hostname",
    "email",
    "password",
    "random_password",
    "select",
    "radio",
    "multiselect",
    "dependent_select",
    "ssh_user",
    "uuidgen",
    "userinfo",
    "string",
    "scalar-unit.size",
    "version",
)
KEYS = (
    *("display_name", "description", "tab", "type", "default", "constraints", "required", "updatable", "placeholder", "rows", "options", "format"),
    *("info_box", "warning", "show_separator", "group_overrides", "parent", "dependent_inputs", "extra_specs", "attribute"),
)
_CHOICES = {"select", "radio", "dependent_select"}
_TAB = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SECRET = re.compile(r"secret|password|passphrase|(^|_)(token|key)$")
_HIDING = {"password", "random_password", "hidden", "textarea"}


def form(document: Document, template: Document | None) -> Iterator[Finding]:
    """All rules of a parameters file, against the inputs of its template."""
    if template is None:
        yield document.finding((), "there is no template of the same name: INFN's dashboard would never show this form")
        return
    tabs = document.get("tabs")
    if not isinstance(tabs, list) or not tabs:
        yield document.finding(("tabs",), "tabs must be a list of names")
        tabs = []
    for index, tab in enumerate(tabs):
        if not isinstance(tab, str) or not _TAB.fullmatch(tab):
            yield document.finding(("tabs", index), f"the tab {tab!r} must be one word: the dashboard makes an HTML id of it, unquoted")
    known = template.mapping("topology_template", "inputs")
    shown = document.mapping("inputs")
    for name, entry in shown.items():
        place = ("inputs", name)
        if name not in known:
            yield document.finding(place, f"{name} is no input of {template.path.name}{nearest(name, known)}")
        elif not isinstance(entry, dict):
            yield document.finding(place, f"{name} must be a map")
        else:
            yield from _field(document, name, entry, known[name], tabs)
    for name in known:
        if name not in shown:
            yield document.finding(("inputs",), f"the input {name} of {template.path.name} is missing; the first tab would show its bare name")
    outputs = template.mapping("topology_template", "outputs")
    for name in document.mapping("outputs"):
        if name not in outputs:
            yield document.finding(("outputs", name), f"{name} is no output of {template.path.name}{nearest(name, outputs)}")


def _field(document: Document, name: str, entry: dict[str, Any], known: Any, tabs: list[Any]) -> Iterator[Finding]:
    place = ("inputs", name)
    known = known if isinstance(known, dict) else {}
    for key in entry:
        if key not in KEYS:
            yield document.finding((*place, key), f"{name} has the key {key!r}, which the dashboard does not know{nearest(key, KEYS)}")
    if entry.get("tab") not in tabs:
        yield document.finding((*place, "tab"), f"{name} is in the tab {entry.get('tab')!r}, which is not in tabs: it would not be shown")
    kind = entry.get("type", known.get("type"))
    if kind not in TYPES:
        yield document.finding((*place, "type"), f"{name} has the type {kind!r}, which the dashboard shows as plain text{nearest(str(kind), TYPES)}")
    if _SECRET.search(name) and kind not in _HIDING:
        yield document.finding((*place, "type"), f"{name} is a secret, and its field would show it: use the type password or random_password")
    if "default" in entry:
        for reason in misfits(entry["default"], str(known.get("type")), known.get("constraints")):
            yield document.finding((*place, "default"), f"the default of {name} {reason}")
    yield from _choices(document, place, name, kind, entry, known)
    overrides = entry.get("group_overrides", {})
    for group, changes in overrides.items() if isinstance(overrides, dict) else ():
        where = (*place, "group_overrides", group)
        if not isinstance(changes, dict) or "group_overrides" in changes:
            yield document.finding(where, f"what {group} gets otherwise for {name} must be a map of keys of the field")
            continue
        yield from _choices(document, where, name, changes.get("type", kind), {**entry, **changes}, known)


def _choices(document: Document, place: tuple[str, ...], name: str, kind: Any, entry: dict[str, Any], known: dict[str, Any]) -> Iterator[Finding]:
    if kind not in _CHOICES:
        return
    choices = entry.get("constraints")
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, dict) and {"value", "label"} <= choice.keys() for choice in choices)
    ):
        yield document.finding((*place, "constraints"), f"{name} is a choice: its constraints must be a list of value and label")
        return
    for index, choice in enumerate(choices):
        for reason in misfits(choice["value"], str(known.get("type")), known.get("constraints")):
            yield document.finding((*place, "constraints", index), f"a choice of {name} {reason}")


def catalogue(document: Document, templates: list[Document]) -> Iterator[Finding]:
    """All rules of the catalogue's entry (schema 1.1.0)."""
    if not isinstance(document.get("version"), str):
        yield document.finding(("version",), 'version must be a string: "1.1.0"')
    names = {template.get("metadata", "template_name") for template in templates}
    for index, service in enumerate(document.get("services") or []):
        place: tuple[str | int, ...] = ("services", index)
        if not isinstance(service, dict):
            yield document.finding(place, "a service must be a map")
            continue
        for key in {"description", "metadata", "templates"} ^ service.keys():
            yield document.finding((*place, key), f"{key} is {'unknown' if key in service else 'missing'}")
        card = document.mapping(*place, "metadata")
        for key in {"display_name", "bookmark_id", "guide_url", "icon", "visibility"} - card.keys():
            yield document.finding((*place, "metadata"), f"metadata.{key} is missing")
        for number, entry in enumerate(service.get("templates") or []):
            where = (*place, "templates", number)
            name = entry.get("name") if isinstance(entry, dict) else None
            if name not in names:
                yield document.finding(where, f"{name!r} is the template_name of no template{nearest(str(name), [str(known) for known in names])}")
            if isinstance(entry, dict) and len(service["templates"]) > 1 and not entry.get("option"):
                yield document.finding(where, f"{name!r} needs an option, by which users choose among several templates")
