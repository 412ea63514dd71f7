#!/usr/bin/python
"""Ansible module: the users and clients of the identity provider."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlaas4hep.mlaas.plugins.module_utils import whole

DOCUMENTATION = r"""
---
module: identity_files
short_description: Write the users and clients of the identity provider
description:
  - Writes the files C(identity-users) and C(identity-clients), which the provider reads.
  - Passwords and client secrets that are not given are made on the machine, each in a file of its own. Nothing of them is returned.
options:
  folder: {description: Folder of the two files., type: path, required: true}
  passwords: {description: Folder with a file per user that holds the password., type: path, required: true}
  owner: {description: Number of the user who reads the two files., type: int, required: true}
  users:
    description: Users with their C(name), C(groups) and, where it is not to be made here, C(password).
    type: list
    elements: dict
    required: true
  clients:
    description: Clients as OpenID describes them. C(secret_file) names the file with the client's secret, and C(secret_owner) the user who reads it.
    type: list
    elements: dict
    required: true
author: [The MLaaS4HEP developers]
attributes:
  check_mode: {support: full, description: Says what would be done.}
"""

EXAMPLES = r"""
- name: Write users and clients
  mlaas4hep.mlaas.identity_files:
    folder: /etc/mlaas/secrets
    passwords: /etc/mlaas/secrets/passwords
    owner: 10004
    users: [{name: alice, groups: [/mlaas/users]}]
    clients: [{client_id: mlaas-cli, token_endpoint_auth_method: none}]
"""

RETURN = r"""
state: {description: A text that changes whenever one of the two files does and tells nothing of its content., type: str, returned: always}
"""

COST, BLOCK, PARALLEL, LENGTH = 16384, 8, 1, 32


def _derived(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=COST, r=BLOCK, p=PARALLEL, dklen=LENGTH)


def hashed(password: str, before: str = "") -> str:
    """The password as the provider stores it; what was stored before is kept when it still fits, so that nothing changes."""
    parts = before.split("$")
    if len(parts) == 6 and hmac.compare_digest(_derived(password, base64.b64decode(parts[4])), base64.b64decode(parts[5])):
        return before
    salt = secrets.token_bytes(16)
    return "$".join(["scrypt", str(COST), str(BLOCK), str(PARALLEL), _base64(salt), _base64(_derived(password, salt))])


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Files:
    """What is written, or in check mode would be."""

    def __init__(self, module: AnsibleModule) -> None:
        self.check = module.check_mode
        self.changed = False

    def secret(self, path: Path, given: str, owner: int) -> str:
        """The secret in a file; the one that is given, that is there, or a new one."""
        there = path.read_text().strip() if path.is_file() else ""
        text = given or there or secrets.token_urlsafe(24)
        self.write(path, text, owner)  # oauth2-proxy takes a newline for a part of the secret
        return text

    def write(self, path: Path, text: str, owner: int) -> None:
        """Let a file hold this text, readable by its owner only."""
        if path.is_file() and path.read_text() == text:
            found = path.stat()
            if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (owner, owner, 0o400):
                return
        self.changed = True
        if self.check:
            return
        whole.write(path, text.encode(), owner, owner, 0o400)


def _users(files: Files, params: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(params["folder"]) / "identity-users"
    before = {user["name"]: user["password"] for user in json.loads(path.read_text())} if path.is_file() else {}
    users = []
    for user in params["users"]:
        password = files.secret(Path(params["passwords"]) / user["name"], user.get("password") or "", 0)
        users.append({"name": user["name"], "groups": list(user.get("groups") or []), "password": hashed(password, before.get(user["name"], ""))})
    return users


def _clients(files: Files, params: dict[str, Any]) -> list[dict[str, Any]]:
    clients = []
    for given in params["clients"]:
        client = {key: value for key, value in given.items() if key not in ("secret_file", "secret_owner", "secret")}
        if given.get("secret_file"):
            client["client_secret"] = files.secret(Path(given["secret_file"]), given.get("secret") or "", int(given.get("secret_owner", 0)))
        clients.append(client)
    return clients


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "passwords": {"type": "path", "required": True, "no_log": False},
            "owner": {"type": "int", "required": True},
            "users": {"type": "list", "elements": "dict", "required": True, "no_log": True},
            "clients": {"type": "list", "elements": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    files, folder = Files(module), Path(params["folder"])
    try:
        files.write(folder / "identity-users", json.dumps(_users(files, params), indent=1) + "\n", params["owner"])
        files.write(folder / "identity-clients", json.dumps(_clients(files, params), indent=1) + "\n", params["owner"])
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"the files of the identity provider cannot be written: {error}")
    written = [path for path in (folder / "identity-users", folder / "identity-clients") if path.exists()]
    module.exit_json(changed=files.changed, state="-".join(map(whole.state, written)))


if __name__ == "__main__":
    main()
