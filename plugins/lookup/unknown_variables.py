"""Lookup that finds spelling mistakes in the names of variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
---
name: unknown_variables
short_description: A sentence for each variable that looks like one of a role, but is none
description:
  - A variable looks like one of a role when it begins with the role's name and an underscore.
  - Those that exist stand in the roles' argument_specs.yml.
options:
  _terms: {description: Folder of the roles., type: list, elements: path, required: true}
  foreign: {description: Names that are somebody else's., type: list, elements: str, default: []}
author: [The MLaaS4HEP developers]
"""

EXAMPLES = r"""
- name: Refuse names that nothing reads
  ansible.builtin.fail:
    msg: "{{ lookup('mlaas4hep.mlaas.unknown_variables', role_path | dirname) }}"
"""

RETURN = r"""
_list: {description: The sentences., type: list, elements: str}
"""


def documented(folder: Path) -> dict[str, set[str]]:
    """The variables of each role."""
    documents = {path.parts[-3]: yaml.safe_load(path.read_text()) for path in folder.glob("*/meta/argument_specs.yml")}
    return {role: {name for spec in document["argument_specs"].values() for name in spec["options"]} for role, document in documents.items()}


def unknown(names: Iterable[str], roles: Mapping[str, set[str]], foreign: Iterable[str]) -> list[str]:
    """A sentence for each of `names` that begins like a variable of a role and is none, with the nearest one that is."""
    prefixes = tuple(f"{role}_" for role in roles)
    known = sorted(set().union(*roles.values()))
    sentences = []
    for name in sorted(set(names).difference(known, foreign)):
        if name.startswith(prefixes):
            near = get_close_matches(name, known, n=1)
            sentences.append(f"{name}: no variable has this name" + (f"; is {near[0]} meant?" if near else ""))
    return sentences


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The sentences for the variables that this task sees."""
        self.set_options(var_options=variables, direct=kwargs)
        roles = {role: names for folder in terms for role, names in documented(Path(folder)).items()}
        return unknown([str(name) for name in variables or {}], roles, self.get_option("foreign"))
