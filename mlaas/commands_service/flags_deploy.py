"""The flags of the commands that install the service."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mlaas.commands_service import deploy
from mlaas.deploy.collection import PLAYBOOKS

Command = Callable[..., argparse.ArgumentParser]


def add(stages: Any, command: Command) -> None:
    """Add the commands that install the service."""
    _doctor(stages, command)
    _deploy(stages, command)


def _doctor(stages: Any, command: Command) -> None:
    made = command(
        stages,
        "doctor",
        "Look whether a machine is fit for the service, without changing it.",
        "mlaas doctor root@mlaas.example.org --issuer=https://iam.example.org/",
        "System, memory, disk, ports, clock, Docker, what shuts jobs in, and whether the machine reaches what it needs;\n"
        "each with a cure. Signs in by SSH as OpenSSH does (~/.ssh/config, agent, keys, else a password that it asks\n"
        "for), and only where the machine's key is in known_hosts or confirmed. Exits with 1 when something is bad.",
        run=deploy.examine,
    )
    made.add_argument("host", metavar="HOST", help="[user@]machine[:port], a machine of --inventory, or localhost (without SSH)")
    made.add_argument("--inventory", "-i", metavar="PATH", help="inventory that says how to sign in, and what the machine must have and reach")
    made.add_argument("--vault-password-file", metavar="FILE", help="with --inventory: file with the password of ansible-vault")
    made.add_argument("--user", metavar="NAME", help="who signs in (default: ~/.ssh/config, else you)")
    made.add_argument("--port", type=int, metavar="PORT", help="port of the SSH server (default: ~/.ssh/config, else 22)")
    made.add_argument("--key", metavar="FILE", help="private key (default: ~/.ssh/config, the agent, the keys in ~/.ssh)")
    made.add_argument("--jump", metavar="HOST", help="go through this machine ([user@]machine[:port])")
    made.add_argument("--data", metavar="FOLDER", help="data folder of the service (default: /var/lib/mlaas)")
    made.add_argument("--issuer", metavar="URL", help="OpenID provider that the machine must reach")
    made.add_argument("--acme", metavar="URL", help="directory of the ACME server that it must reach")
    made.add_argument("--redirector", metavar="URL", help="XRootD redirector that it must reach (root://host:port)")
    made.add_argument("--hub", metavar="HOST", help="image registry that it must reach")
    made.add_argument("--reach", action="append", metavar="ADDRESS", help="anything else that it must reach, a URL or host:port; may be given again")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _deploy(stages: Any, command: Command) -> None:
    made = command(
        stages,
        "deploy",
        "Install the service on machines, or do something else with them: upgrade, back up, restore, remove.",
        "mlaas deploy inventories/vm --check",
        "Runs a playbook of the Ansible collection mlaas4hep.mlaas, a line for each step. What failed is told in a\n"
        "sentence, and the whole log is kept in $XDG_STATE_HOME/mlaas/deploy (mode 0600). Running it again ends well.",
        run=deploy.deploy,
    )
    made.add_argument("inventory", metavar="INVENTORY", nargs="?", default="local", help="its path; local is this machine (default: local)")
    made.add_argument("--playbook", choices=PLAYBOOKS, default="site", help="default: site, which installs")
    made.add_argument("--check", action="store_true", help="only say what would change")
    made.add_argument("--tags", metavar="TAGS", help="only these parts: roles (tls), steps (preflight, install, configure, run), comma list")
    made.add_argument("--limit", metavar="HOSTS", help="only these machines of the inventory")
    made.add_argument("--extra", "-e", action="append", metavar="NAME=VALUE", help="variable of a role, or @FILE with several; may be given again")
    made.add_argument("--vault-password-file", metavar="FILE", help="file with the password of ansible-vault, or a program that prints it")
    made.add_argument("--ask-become-pass", "-K", action="store_true", help="ask for the password that sudo wants on the machines")
