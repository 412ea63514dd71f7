"""Filters for files of environment variables (Compose's .env and env_file)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
---
name: environment
short_description: A mapping as a file of environment variables
description:
  - Lists become comma lists, mappings JSON, booleans C(true) and C(false). A value of null is left out.
  - Values stand in single quotes, in which Compose replaces nothing.
  - A value that holds a single quote or a new line cannot be written and is refused.
positional: _input
options:
  _input: {description: The variables., type: dict, required: true}
author: [The MLaaS4HEP developers]
"""

EXAMPLES = r"""
- ansible.builtin.copy:
    content: "{{ {'MLAAS_USER_GROUPS': ['/cms', '/atlas']} | mlaas4hep.mlaas.environment }}"
    dest: /opt/mlaas/server.env
    mode: "0644"
"""

RETURN = r"""
_value: {description: The lines of the file., type: str}
"""


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, Mapping):
        text = json.dumps(value, sort_keys=True)
    elif isinstance(value, (list, tuple)):
        if any("," in str(item) for item in value):
            raise AnsibleFilterError(f"{name}: an item of a comma list cannot hold a comma")
        text = ",".join(str(item) for item in value)
    else:
        text = str(value)
    if "'" in text or "\n" in text:
        raise AnsibleFilterError(f"{name}: a value cannot hold a single quote or a new line")
    return text if text.isalnum() else f"'{text}'"


def environment(variables: Mapping[str, Any]) -> str:
    """The lines `NAME=value`, in the order given."""
    return "".join(f"{name}={_value(name, value)}\n" for name, value in variables.items() if value is not None)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Name and function of each."""
        return {"environment": environment}
