"""Check templates, types, forms and the catalogue's entry together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlaas.errors import UserError
from mlaas.tosca import form_rules, parser, rules
from mlaas.tosca.document import Document, Finding, read

_TYPES = ("node_types", "capability_types", "data_types", "relationship_types", "artifact_types", "policy_types", "interface_types")
_FORM = ".parameters"


@dataclass(frozen=True)
class Checked:
    """Which files were checked, and what is wrong in them."""

    checked: list[Path]
    findings: list[Finding]


def check(paths: Iterable[Path], forms: Iterable[Path] = ()) -> Checked:
    """Check files, or all in folders; `forms` belong to the only template among them."""
    documents = [read(path) for path in _files(paths)]
    given = [read(path) for path in forms]
    kinds = {id(document): _kind(document) for document in documents}
    templates = [document for document in documents if kinds[id(document)] == "template"]
    if given and len(templates) != 1:
        raise UserError(f"--parameters belongs to one template, but {len(templates)} are given")
    for document in documents:
        if kinds[id(document)] == "unknown":
            raise UserError(f"{document.path} is neither a template nor a file of types, a form or an entry of the catalogue")
    findings = [finding for document in (*documents, *given) for finding in document.findings]
    for document in documents:
        match kinds[id(document)]:
            case "template":
                findings += _template(document)
            case "types":
                findings += rules.types(document)
            case "form":
                findings += form_rules.form(document, _of_form(document, templates))
            case "catalogue":
                findings += form_rules.catalogue(document, templates)
    findings += [finding for document in given if not document.findings for finding in form_rules.form(document, templates[0])]
    findings += _names(templates)
    checked = [document.path for document in (*documents, *given) if kinds.get(id(document)) != "foreign"]
    return Checked(checked, sorted(set(findings)))


def _template(document: Document) -> Iterator[Finding]:
    found = list(rules.template(document, nested_metadata=_variant(document)))
    yield from found
    addresses = [
        address for entry in document.get("imports") or [] if isinstance(entry, dict) for address in entry.values() if isinstance(address, str)
    ]
    local = {address: path for address in addresses if (path := _local(document.path, address))}
    for address in addresses:
        if address not in local and urlsplit(address).scheme:
            yield document.finding(("imports", 0), f"there is no copy of {address} beside this file, which a check without a network needs")
    if len(local) == len(addresses) and not any("regular expression" in finding.reason for finding in found):
        seen = {finding.line for finding in found}
        yield from (finding for finding in parser.parse(document, local) if finding.line not in seen)


def _variant(document: Document) -> bool:
    """The variant for im-dashboard, which alone knows tabs in the metadata."""
    return document.path.resolve().parent.name == "im-dashboard"


def _names(templates: list[Document]) -> Iterator[Finding]:
    """INFN's dashboard keeps one template a name; a variant may share that of its original."""
    seen: dict[str, Document] = {}
    for document in templates:
        name = document.get("metadata", "template_name")
        if _variant(document) or not isinstance(name, str):
            continue
        if name in seen:
            yield document.finding(
                ("metadata", "template_name"), f"{seen[name].path} has the same template_name; the dashboard would show one of both"
            )
        seen.setdefault(name, document)


def _of_form(document: Document, templates: list[Document]) -> Document | None:
    stem = document.path.name.split(_FORM)[0]
    return next((template for template in templates if template.path.stem == stem and not _variant(template)), None)


def _kind(document: Document) -> str:
    if document.findings and document.data is None:
        return "damaged"
    if document.path.stem.endswith(_FORM):
        return "foreign" if document.path.parent.name == "docker-compose" else "form"  # that form is for a template of INFN
    if isinstance(document.data, list):
        return "foreign"
    if document.get("services") is not None:
        return "catalogue"
    if document.get("topology_template") is not None:
        return "template"
    return "types" if any(document.get(kind) is not None for kind in _TYPES) else "unknown"


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(inner for inner in path.rglob("*") if inner.suffix in {".yaml", ".yml"} and inner.is_file())
            yield from (inner for inner in found if _kind(read(inner)) != "unknown")
        elif path.exists():
            yield path
        else:
            raise UserError(f"{path} does not exist")


def _local(template: Path, address: str) -> Path | None:
    """The file beside the template, or in a folder around it, whose path is the longest end of the address."""
    parts = urlsplit(address).path.strip("/").split("/")
    for start in range(len(parts)):
        for folder in template.resolve().parents[:4]:
            found = folder.joinpath(*parts[start:])
            if found.is_file():
                return found
    return None
