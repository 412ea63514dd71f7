#!/usr/bin/python
"""Ansible module: a secret in a file of its own."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlaas4hep.mlaas.plugins.module_utils import whole

DOCUMENTATION = r"""
---
module: secret
short_description: Make a secret's file once
description:
  - Writes a random text into a file that is not there yet, or the text that is given.
  - The secret is made on the host, is never an argument of a program and is never returned.
  - The file appears by one rename, with its owner and mode, so that it can never be read half written or by others.
options:
  path: {description: The file., type: path, required: true}
  owner: {description: Number of the user who reads it., type: int, default: 0}
  group: {description: Number of its group., type: int, default: 0}
  mode: {description: Mode of the file (octal)., type: str, default: "0400"}
  bytes: {description: Random bytes behind a generated secret., type: int, default: 36}
  encoding: {description: How the random bytes are written., type: str, choices: [urlsafe, hex], default: urlsafe}
  content: {description: The secret itself. Empty keeps the file that is there, or makes one., type: str, default: ""}
  newline: {description: End the file with a newline., type: bool, default: true}
  state: {description: absent removes the file., type: str, choices: [present, absent], default: present}
author: [The MLaaS4HEP developers]
attributes:
  check_mode: {support: full, description: Says what would be done.}
"""

EXAMPLES = r"""
- name: Make the service key
  mlaas4hep.mlaas.secret:
    path: /etc/mlaas/secrets/service-key
    owner: 10001
"""

RETURN = r"""
made: {description: Whether a new secret was generated., type: bool, returned: always}
state: {description: A text that changes whenever the file does and tells nothing of its content., type: str, returned: always}
"""


def _text(module: AnsibleModule) -> str:
    count, given = module.params["bytes"], module.params["content"]
    made = secrets.token_hex(count) if module.params["encoding"] == "hex" else secrets.token_urlsafe(count)
    return (given or made) + ("\n" if module.params["newline"] else "")


def _differs(path: Path, owner: int, group: int, mode: int) -> bool:
    found = path.lstat()
    return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (owner, group, mode)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "owner": {"type": "int", "default": 0},
            "group": {"type": "int", "default": 0},
            "mode": {"type": "str", "default": "0400"},
            "bytes": {"type": "int", "default": 36},
            "encoding": {"type": "str", "default": "urlsafe", "choices": ["urlsafe", "hex"]},
            "content": {"type": "str", "default": "", "no_log": True},
            "newline": {"type": "bool", "default": True},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
        },
        supports_check_mode=True,
    )
    path, owner, group = Path(module.params["path"]), module.params["owner"], module.params["group"]
    try:
        mode = int(module.params["mode"], 8)
    except ValueError:
        module.fail_json(msg=f"mode must be an octal number such as 0400, got: {module.params['mode']}")
    there = path.is_file() and not path.is_symlink()
    made = changed = False
    try:
        if module.params["state"] == "absent":
            changed = there
            if there and not module.check_mode:
                path.unlink()
        else:
            text = _text(module)
            write = not there or bool(module.params["content"] and path.read_text() != text)
            made = write and not module.params["content"]
            changed = write or _differs(path, owner, group, mode)
            if write and not module.check_mode:
                whole.write(path, text.encode(), owner, group, mode)
            elif changed and not module.check_mode:
                os.chown(path, owner, group)
                path.chmod(mode)
    except OSError as error:
        module.fail_json(msg=f"the secret {path} cannot be written: {error.strerror}")
    module.exit_json(changed=changed, made=made, state=whole.state(path) if path.exists() else "")


if __name__ == "__main__":
    main()
