"""What a template must be so that all its readers take it: tosca-parser, the Infrastructure Manager (IM), dodas, the INDIGO orchestrator, dashboards.

Each rule yields findings; its docstring says who refuses what. Together they are stricter than each reader alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from mlaas.errors import nearest
from mlaas.tosca.document import Document, Finding, Place, leaves
from mlaas.tosca.values import CONSTRAINTS, TYPES, misfits

VERSION = "tosca_simple_yaml_1_0"
INPUT_KEYS = ("type", "description", "default", "required", "constraints")
_RELEASE = re.compile(r"(^|/)v?[0-9]+\.[0-9]+(\.[0-9]+)?([-.+][0-9A-Za-z.]+)?(/|$)")
_LISTS = {"private_address", "public_address", "credential"}  # attributes that are lists: an output must take one element


def template(document: Document, *, nested_metadata: bool = False) -> Iterator[Finding]:
    """All rules of a template; im-dashboard's variant may have nested metadata."""
    yield from version(document)
    yield from imports(document)
    yield from metadata(document, nested=nested_metadata)
    yield from inputs(document)
    yield from references(document)
    yield from networks(document)
    yield from images(document)
    yield from outputs(document)


def types(document: Document) -> Iterator[Finding]:
    """All rules of a file of types."""
    yield from version(document)
    yield from metadata(document)
    if document.get("imports"):
        yield document.finding(
            ("imports",), "a file of types imports nothing, for every import is fetched at each start: put all types into this one"
        )
    for place, value in leaves(document.data):
        if len(place) >= 2 and place[-2] == "properties" and isinstance(value, dict):
            yield from _default(document, place, value)
        if place and place[-1] == "implementation":
            yield from _address(document, place, value, "the play")
        if place and place[-1] == "artifacts" and isinstance(value, dict):
            yield from _artifacts(document, place, value)


def version(document: Document) -> Iterator[Finding]:
    """tosca-parser knows neither 1_1 nor 2_0, and dodas nothing beyond 1_0 as the others read it."""
    found = document.get("tosca_definitions_version")
    if found != VERSION:
        yield document.finding(("tosca_definitions_version",), f"tosca_definitions_version is {found!r}; all readers know {VERSION} only")


def imports(document: Document) -> Iterator[Finding]:
    """IM takes no relative address, the INDIGO orchestrator no plain string, and what is fetched must not change under a deployment."""
    found = document.get("imports")
    if not isinstance(found, list) or len(found) != 1:
        yield document.finding(("imports",), "imports must be a list with one element, the file of types: every reader then fetches just that")
    for index, entry in enumerate(found if isinstance(found, list) else []):
        place = ("imports", index)
        if isinstance(entry, str):
            yield document.finding(place, f"the INDIGO orchestrator takes no plain string: write `- mlaas4hep: {entry}`")
            yield from _address(document, place, entry, "the import")
        elif not isinstance(entry, dict) or len(entry) != 1 or not isinstance(next(iter(entry.values())), str):
            yield document.finding(place, "an import must be a map of one name to one address: `- mlaas4hep: https://...`")
        else:
            yield from _address(document, place, next(iter(entry.values())), "the import")


def metadata(document: Document, *, nested: bool = False) -> Iterator[Finding]:
    """dodas takes strings only; INFN's dashboard finds a template by its template_name."""
    found = document.get("metadata")
    if not isinstance(found, dict) or not isinstance(found.get("template_name"), str):
        yield document.finding(("metadata",), "metadata.template_name is missing; INFN's dashboard finds the template by it")
    for key, value in found.items() if isinstance(found, dict) and not nested else ():
        if isinstance(value, dict | list):
            yield document.finding(("metadata", key), f"metadata.{key} is nested, which dodas refuses; only the variant for im-dashboard may have it")
        elif not isinstance(value, str):
            yield document.finding(("metadata", key), f"metadata.{key} is {value!r}; dodas takes strings only: put it in quotes")


def inputs(document: Document) -> Iterator[Finding]:
    """tosca-parser and IM refuse other keys, dodas defaults that hold maps; without a default nobody can try the template."""
    for name, entry in document.mapping("topology_template", "inputs").items():
        place = ("topology_template", "inputs", name)
        if not isinstance(entry, dict):
            yield document.finding(place, f"the input {name} is no map of {', '.join(INPUT_KEYS)}")
            continue
        for key in entry:
            if key not in INPUT_KEYS:
                yield document.finding(
                    (*place, key),
                    f"the input {name} has the key {key!r}{nearest(str(key), INPUT_KEYS)}, which tosca-parser and IM refuse; "
                    "what is for a form belongs into its parameters file",
                )
        kind = entry.get("type")
        if kind not in TYPES:
            yield document.finding((*place, "type"), f"the input {name} has the type {kind!r}; all readers and forms know {', '.join(TYPES)}")
        if not entry.get("description"):
            yield document.finding(place, f"the input {name} has no description, which forms show")
        if "default" not in entry:
            yield document.finding(place, f"the input {name} has no default; tosca-parser does not notice, and the deployment fails later")
        yield from _constraints(document, place, name, entry)
        yield from _default(document, place, entry)


def _constraints(document: Document, place: Place, name: str, entry: dict[str, Any]) -> Iterator[Finding]:
    found = entry.get("constraints", [])
    if not isinstance(found, list):
        yield document.finding((*place, "constraints"), f"the constraints of {name} must be a list of maps")
        return
    for index, constraint in enumerate(found):
        where = (*place, "constraints", index)
        if not isinstance(constraint, dict) or len(constraint) != 1:
            yield document.finding(where, f"a constraint of {name} must be a map of one rule to its value")
            continue
        rule, bound = next(iter(constraint.items()))
        if rule not in CONSTRAINTS:
            yield document.finding(where, f"the constraint {rule!r} of {name} is unknown{nearest(str(rule), CONSTRAINTS)}")
        elif rule == "pattern" and not _compiles(bound):
            yield document.finding(where, f"the pattern of {name} is no regular expression: {bound!r}")
        elif (rule == "in_range" and not (isinstance(bound, list) and len(bound) == 2)) or (rule == "valid_values" and not isinstance(bound, list)):
            yield document.finding(where, f"the constraint {rule} of {name} needs a list{' of two values' if rule == 'in_range' else ''}")


def _compiles(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        return False
    return True


def _default(document: Document, place: Place, entry: dict[str, Any]) -> Iterator[Finding]:
    if "default" not in entry:
        return
    value, name, where = entry["default"], place[-1], (*place, "default")
    inside = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    if any(isinstance(element, dict | list) for element in inside):
        kind = "list" if isinstance(value, list) else "map"
        yield document.finding(where, f"the default of {name} is a {kind} of maps, which dodas refuses; write ports and users where they are used")
        return
    if isinstance(entry.get("type"), str) and not list(_constraints(document, place, str(name), entry)):
        for reason in misfits(value, entry["type"], entry.get("constraints")):
            yield document.finding(where, f"the default of {name} {reason}")


def references(document: Document) -> Iterator[Finding]:
    """An input that nobody declares fails late; one that nobody uses is a promise that is not kept."""
    known = document.mapping("topology_template", "inputs")
    used = set()
    for place, value in leaves(document.get("topology_template"), ("topology_template",)):
        if isinstance(value, dict) and "get_input" in value:
            name = value["get_input"]
            used.add(name if isinstance(name, str) else str(name))
            if not isinstance(name, str) or name not in known:
                yield document.finding((*place, "get_input"), f"get_input names {name!r}, which is no input{nearest(str(name), known)}")
    for name in known:
        if name not in used:
            yield document.finding(("topology_template", "inputs", name), f"the input {name} is used nowhere")


def networks(document: Document) -> Iterator[Finding]:
    """IM and the orchestrator number the interfaces by the order of the ports: 0 is private, 1 public; dodas logs in by the second."""
    nodes = document.mapping("topology_template", "node_templates")
    kinds = {
        name: document.get("topology_template", "node_templates", name, "properties", "network_type")
        for name, node in nodes.items()
        if _is(node, "Network")
    }
    bound: dict[str, dict[int, str]] = {}
    for name, node in nodes.items():
        if not _is(node, "Port"):
            continue
        place = ("topology_template", "node_templates", name)
        ends = {key: value for entry in node.get("requirements") or [] if isinstance(entry, dict) for key, value in entry.items()}
        order, kind = (node.get("properties") or {}).get("order"), kinds.get(_target(ends.get("link")))
        if kind is None:
            yield document.finding((*place, "requirements"), f"the port {name} is linked to {ends.get('link')!r}, which is no network here")
        elif {"private": 0, "public": 1}.get(str(kind)) != order:
            yield document.finding(
                (*place, "properties", "order"),
                f"the port {name} to the {kind} network has the order {order!r}; 0 is private, 1 is public",
            )
        elif isinstance(order, int):
            bound.setdefault(_target(ends.get("binding")), {})[order] = str(kind)
    for name, node in nodes.items():
        if _is(node, "Compute") and 0 not in bound.get(name, {}):
            yield document.finding(("topology_template", "node_templates", name), f"the machine {name} has no port to a private network (order 0)")


def images(document: Document) -> Iterator[Finding]:
    """The image is the one thing that differs in every cloud."""
    for name, node in document.mapping("topology_template", "node_templates").items():
        if not _is(node, "Compute"):
            continue
        place = ("topology_template", "node_templates", name, "capabilities", "os", "properties", "image")
        found = document.get(*place)
        if not isinstance(found, dict) or "get_input" not in found:
            yield document.finding(place, f"the image of {name} must be an input: {{ get_input: image }}")


def outputs(document: Document) -> Iterator[Finding]:
    """dodas reads outputs as strings and ends with a fault on everything else."""
    known = document.mapping("topology_template", "outputs")
    if not known:
        yield document.finding(("topology_template", "outputs"), "there are no outputs; users would not learn the address of the service")
    for name, entry in known.items():
        place = ("topology_template", "outputs", name)
        if not isinstance(entry, dict) or "value" not in entry:
            yield document.finding(place, f"the output {name} has no value")
            continue
        for key in entry:
            if key not in {"value", "description"}:
                yield document.finding((*place, str(key)), f"the output {name} has the key {key!r}; only value and description are known")
        reason = _string(entry["value"])
        if reason:
            yield document.finding((*place, "value"), f"the output {name} is no string, with which dodas ends: {reason}")


def _string(value: Any) -> str:
    if isinstance(value, str):
        return ""
    if not isinstance(value, dict) or len(value) != 1:
        return f"it is {value!r}"
    function, arguments = next(iter(value.items()))
    if function in {"concat", "token", "get_input", "get_property"}:
        inner = arguments if function == "concat" and isinstance(arguments, list) else []
        return next((reason for reason in map(_string, inner) if reason), "")
    if function != "get_attribute" or not isinstance(arguments, list):
        return f"{function} is not known here"
    steps = [step for step in arguments[1:] if step != "endpoint"]
    if not steps or steps[0] not in _LISTS:
        return ""
    if len(steps) < 2 or not isinstance(steps[1], int):
        return f"{steps[0]} is a list; take one element: [ ..., {steps[0]}, 0 ]"
    if steps[0] == "credential" and len(steps) < 3:
        return "a credential is a map; take its user: [ ..., credential, 0, user ]"
    return ""


def _address(document: Document, place: Place, address: Any, what: str) -> Iterator[Finding]:
    parts = urlsplit(address) if isinstance(address, str) else None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
        yield document.finding(place, f"{what} is {address!r}; IM takes absolute addresses only (https://...)")
    elif not _RELEASE.search(parts.path):
        yield document.finding(place, f"{what} is {address}, which names no version: a running deployment would change with it")


def _artifacts(document: Document, place: Place, found: dict[str, Any]) -> Iterator[Finding]:
    for name, entry in found.items():
        if isinstance(entry, dict) and str(entry.get("type", "")).endswith("AnsibleGalaxy.role"):
            yield document.finding((*place, name), "IM never upgrades a role that it has: ship a collection, whose version is in its address")


def _is(node: Any, kind: str) -> bool:
    return isinstance(node, dict) and str(node.get("type", "")).rsplit(".", 1)[-1] == kind


def _target(requirement: Any) -> str:
    return str(requirement.get("node") if isinstance(requirement, dict) else requirement)
