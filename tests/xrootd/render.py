"""The configuration that role xrootd writes, for a proxy that runs here as a process.

`render` puts it together with Ansible's own templates, quickly; `play` runs the role's tasks. test_role.py compares the two.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

from tests.support.collection import ROOT, environment

ROLES = ROOT / "roles"
TEMPLATES = ROLES / "xrootd" / "templates"
FILES = ("proxy.cfg", "authdb", "vomses")
PLAY = """
- hosts: localhost
  gather_facts: false
  vars_files: [{roles}/mlaas/defaults/main.yml, {roles}/mlaas/vars/main.yml, {roles}/xrootd/defaults/main.yml, {roles}/xrootd/vars/main.yml]
  vars: {{_mlaas_collection: "{root}"}}
  tasks:
"""
TASK = "    - ansible.builtin.import_tasks: {roles}/xrootd/tasks/{step}.yml\n"
STEPS = ("preflight", "install", "configure")
USER = 10003

init_plugin_loader()


@dataclass(frozen=True)
class Rendered:
    """What the role wrote below `folder`: config/xrootd, config/secrets/xrootd, data (cache, credential), opt (the Compose project)."""

    folder: Path

    @property
    def config(self) -> Path:
        """The folder that the containers see at /etc/mlaas/xrootd."""
        return self.folder / "config" / "xrootd"

    @property
    def secrets(self) -> Path:
        """The folder that the renewer sees at /run/secrets/xrootd."""
        return self.folder / "config" / "secrets" / "xrootd"

    @property
    def credential(self) -> Path:
        """The folder of the credential."""
        return self.folder / "data" / "credential"

    @property
    def cache(self) -> Path:
        """The folder of the cache."""
        return self.folder / "data" / "cache"

    @property
    def settings(self) -> Path:
        """What the renewer is told, with the places of this machine in place of the container's."""
        path = self.folder / "credential.json"
        document = json.loads((self.config / "credential.json").read_text())
        here = {"folder": str(self.credential), "secrets": str(self.secrets), "ca": document["ca"].replace("/etc/trust", str(self.folder))}
        path.write_text(json.dumps(document | here))
        return path

    def at(self, port: int) -> Path:
        """The proxy's configuration with the places of this machine in place of the container's."""
        text = (self.config / "proxy.cfg").read_text().replace("xrd.port 1094", f"xrd.port {port}")
        for seen, here in {"/run/xrootd": self.folder / "run", "/cache": self.cache}.items():
            text = text.replace(f" {seen}\n", f" {here}\n")
        path = self.folder / "proxy.cfg"
        path.write_text(text)
        return path


def places(folder: Path) -> dict[str, Any]:
    """The variables by which all is below `folder`."""
    return {
        "mlaas_host_name": "mlaas.test",
        "mlaas_config_folder": str(folder / "config"),
        "mlaas_folder": str(folder / "opt"),
        "mlaas_xrootd_folder": str(folder / "data"),
        "_xrootd_seen": str(folder / "config" / "xrootd"),
    }


class Values:
    """The variables of some roles as Ansible sees them."""

    def __init__(self, **given: Any) -> None:
        loader = DataLoader()
        found: dict[str, Any] = {"ansible_managed": "Ansible managed"}
        for role in ("mlaas", "xrootd", "server"):
            for part in ("defaults", "vars"):
                found |= loader.load_from_file(str(ROLES / role / part / "main.yml"), trusted_as_template=True)
        self._templar = Templar(loader=loader, variables=found | given)

    def of(self, expression: str) -> Any:
        """The value of an expression."""
        return self._templar.template(trust_as_template(f"{{{{ {expression} }}}}"))

    def text(self, name: str) -> str:
        """What the template of this name gives."""
        source = (TEMPLATES / f"{name}.j2").read_text()
        return str(self._templar.copy_with_new_env().template(trust_as_template(source), escape_backslashes=False))


def faults(**given: Any) -> list[str]:
    """What the preflight says of these variables, before it looks at certificates."""
    return list(Values(**places(Path("/nowhere")) | given).of("_xrootd_faults | select | list"))


def render(folder: Path, **given: Any) -> Rendered:
    """What the role writes with these variables."""
    values = Values(**places(folder) | given)
    said = values.of("_xrootd_faults | select | list")
    assert said == [], said
    made = Rendered(folder)
    shutil.rmtree(folder, ignore_errors=True)
    for path in (made.config, made.secrets, made.credential, made.cache):
        path.mkdir(parents=True)
    for name in FILES:
        (made.config / name).write_text(values.text(name))
    (made.config / "credential.json").write_text(values.of("_xrootd_credential_document | to_nice_json") + "\n")
    for server in values.of("xrootd_voms_servers"):
        lsc = made.config / "vomsdir" / server["vo"] / f"{server['host']}.lsc"
        lsc.parent.mkdir(parents=True)
        lsc.write_text(f"{server['subject']}\n{server['issuer']}\n")
    if authorities := values.of("xrootd_certificates"):
        shutil.copytree(authorities, made.config / "certificates")
    for secret in values.of("_xrootd_secret_files"):
        if secret["content"]:
            path = made.secrets / secret["name"]
            path.write_text(secret["content"] + ("\n" if secret.get("newline") else ""))
            path.chmod(0o400)
            shutil.chown(path, USER, USER)
    for path, mode in ((made.secrets, 0o500), (made.credential, 0o700), (made.cache, 0o700)):
        path.chmod(mode)
        shutil.chown(path, USER, USER)
    return made


def play(folder: Path, *options: str, steps: tuple[str, ...] = STEPS, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run the role's tasks, which then write below `folder`."""
    for name in ("config/secrets", "opt/env.d"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    templates = folder / "templates"
    if not templates.is_symlink():
        templates.symlink_to(TEMPLATES)
    tasks = "".join(TASK.format(roles=ROLES, step=step) for step in steps)
    (folder / "play.yml").write_text(PLAY.format(roles=ROLES, root=ROOT) + tasks)
    ours = {"ansible_python_interpreter": sys.executable, "ansible_connection": "local"}
    (folder / "variables.json").write_text(json.dumps(places(folder) | ours | given))
    command = ["ansible-playbook", "--inventory=localhost,", f"--extra-vars=@{folder}/variables.json", *options, str(folder / "play.yml")]
    added = environment(folder / "ansible") | {"ANSIBLE_PIPELINING": "true"}
    return subprocess.run(command, env=added, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
