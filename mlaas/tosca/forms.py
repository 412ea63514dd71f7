"""The forms of the dashboards: parameters and catalogue of INFN's, the variant of the templates for im-dashboard."""

from __future__ import annotations

from typing import Any

import yaml

from mlaas.tosca.table import Input, Table, Template, source

HEAD = "---\n# Written by `mlaas tosca render`; change mlaas/tosca/source instead.\n"


def render(known: Table, templates: dict[str, str]) -> dict[str, str]:
    """All files of the catalogue by their paths below `tosca/`."""
    made = {"catalogue/tosca-metadata/metadata.yml": _dump(catalogue(known)), "catalogue/mlaas4hep.svg": source("mlaas4hep.svg")}
    for stem, template in known.templates.items():
        made[f"catalogue/tosca-parameters/{stem}.parameters.yml"] = _dump(parameters(known, template))
        made[f"catalogue/im-dashboard/{stem}.yaml"] = im_dashboard(known, template, templates[stem])
    return made


def catalogue(known: Table) -> dict[str, Any]:
    """The entry of INFN's catalogue (schema 1.1.0): one card, whose templates are its versions."""
    where = known.project
    return {
        "version": "1.1.0",
        "services": [
            {
                "description": "Machine learning as a service for high-energy physics: ROOT files in, a trained and served model out",
                "metadata": {
                    "display_name": "MLaaS4HEP",
                    "bookmark_id": "mlaas4hep",
                    "guide_url": where.guide,
                    "icon": f"{where.files}/tosca/catalogue/mlaas4hep.svg",
                    "visibility": {"type": "public"},
                },
                "templates": [
                    {"name": template.name, "option": template.option, "description": template.description} for template in known.templates.values()
                ],
            }
        ],
    }


def parameters(known: Table, template: Template) -> dict[str, Any]:
    """The form of INFN's dashboard for one template."""
    shown = [input for input in template.inputs.values() if input.form.get("type") != "hidden"]
    return {
        "tabs": [tab for tab in known.tabs if any(input.tab == tab for input in shown)],
        "inputs": {name: _parameter(input) for name, input in template.inputs.items()},
        "outputs": {"ssh_user": {"description": "Sign in as this user with your own key."}},
    }


def _parameter(input: Input) -> dict[str, Any]:
    made: dict[str, Any] = {"display_name": _label(input.name), "description": input.description, "tab": input.tab}
    if input.required:
        made["required"] = True
    if input.updatable:
        made["updatable"] = True
    return made | dict(input.form)


def im_dashboard(known: Table, template: Template, text: str) -> str:
    """The template as im-dashboard wants it: tabs are nested metadata, which dodas refuses."""
    lines = ["  tag: MLaaS4HEP", f"  icon: {known.project.files}/tosca/catalogue/mlaas4hep.svg", "  order: 50", "  tabs:"]
    for tab in known.tabs:
        of_tab = [input for input in template.inputs.values() if input.tab == tab]
        lines += [f"    {tab}:", *(line for input in of_tab for line in _entry(input))] if of_tab else []
    return text.replace("\ndescription: ", "\n".join(["", *lines, "", "description: "]), 1).replace("\n\n  tag:", "\n  tag:", 1)


def _entry(input: Input) -> list[str]:
    tags = {
        "tag_type": "password" if input.secret else "",
        "pattern": input.pattern,
        "reconfigure": "true" if input.updatable else "",
    }
    found = [f"          {key}: {_scalar(value)}" for key, value in tags.items() if value]
    return [f"      - {input.name}:", *found] if found else [f"      - {input.name}"]


def _scalar(value: str) -> str:
    return value if value in {"true", "password"} else f'"{value}"'


def _label(name: str) -> str:
    known = {"oidc": "OpenID", "tls": "TLS", "dns": "DNS", "ca": "CA", "cpus": "CPUs", "ssh": "SSH", "id": "identifier"}
    words = [known.get(word, word) for word in name.removeprefix("num_").split("_")]
    return f"{words[0][0].upper()}{words[0][1:]} {' '.join(words[1:])}".strip()


def _dump(document: Any) -> str:
    return HEAD + yaml.dump(document, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=140)


class _Indented(yaml.SafeDumper):
    """Lists stand deeper than their key, as everywhere in this repository."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)
