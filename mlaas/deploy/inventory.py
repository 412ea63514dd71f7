"""What an inventory says of a machine: its variables as Ansible sees them, and how to sign in there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlaas.deploy.hosts import LOCAL
from mlaas.deploy.ssh import Login
from mlaas.errors import MissingExtraError, UserError, nearest

TIME = 60.0  # s


def variables(inventory: str, host: str, vault_password_file: str = "") -> dict[str, Any]:
    """The variables of one machine. Raises UserError."""
    listed = _ask(inventory, vault_password_file)
    hosts = set(listed.get("_meta", {}).get("hostvars", {})) | {name for group in listed.values() for name in group.get("hosts", [])}
    if host not in hosts:
        raise UserError(f"{inventory} has no machine {host!r}{nearest(host, hosts)}; it has {', '.join(sorted(hosts)) or 'none'}")
    found: dict[str, Any] = listed.get("_meta", {}).get("hostvars", {}).get(host, {})
    return found


def _ask(inventory: str, vault_password_file: str) -> dict[str, Any]:
    program = Path(sys.executable).parent / "ansible-inventory"
    if not program.exists():
        raise MissingExtraError("ansible", "deploy")
    if not Path(inventory).exists():
        raise UserError(f"there is no inventory {inventory}")
    command = [str(program), "-i", inventory, "--list"]
    if vault_password_file:
        command += ["--vault-password-file", vault_password_file]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIME, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or ["ansible-inventory failed"]
        raise UserError(f"{inventory}: {lines[0].removeprefix('[ERROR]: ')}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def login(found: Mapping[str, Any], flags: Login) -> Login | None:
    """How to sign in: the flags, then the inventory; None for this machine."""
    by_ssh = flags.user or flags.port or flags.key or flags.jump or "ansible_host" in found
    if str(found.get("ansible_connection", "")).split(".")[-1] == "local" or (flags.host in LOCAL and not by_ssh):
        return None
    return Login(
        host=str(found.get("ansible_host", flags.host)),
        user=flags.user or str(found.get("ansible_user", "")),
        port=flags.port or int(found.get("ansible_port", 0) or 0),
        key=flags.key or str(found.get("ansible_ssh_private_key_file", "")),
        jump=flags.jump or jump(str(found.get("ansible_ssh_common_args", ""))),
    )


def jump(arguments: str) -> str:
    """The jump host among arguments of ssh: `-J HOST` or `-o ProxyJump=HOST`."""
    named = re.search(r"(?:-J *|ProxyJump[= ]\s*)[\"']?([^\s\"',]+)", arguments)
    return named[1] if named else ""
