"""The configuration that role xrootd writes, by its own tasks, for a proxy that runs here as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.collection import ROOT, environment

PLAY = """
- hosts: localhost
  gather_facts: false
  vars_files: [{roles}/mlaas/defaults/main.yml, {roles}/mlaas/vars/main.yml, {roles}/xrootd/defaults/main.yml, {roles}/xrootd/vars/main.yml]
  vars: {{_mlaas_collection: "{root}"}}
  tasks:
"""
TASK = "    - ansible.builtin.import_tasks: {roles}/xrootd/tasks/{step}.yml\n"
STEPS = ("preflight", "install", "configure")
SEEN = {"/run/xrootd": "run", "/cache": "data/cache"}


@dataclass(frozen=True)
class Rendered:
    """What the role wrote below `folder`: config/xrootd, config/secrets/xrootd, data (cache, credential), opt (the Compose project)."""

    folder: Path
    output: str

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
    def settings(self) -> Path:
        """What the renewer is told, with the places of this machine in place of the container's."""
        path = self.folder / "credential.json"
        document = json.loads((self.config / "credential.json").read_text())
        path.write_text(json.dumps(document | {"folder": str(self.credential), "secrets": str(self.secrets)}))
        return path

    def at(self, port: int) -> Path:
        """The proxy's configuration with the places of this machine in place of the container's."""
        text = (self.config / "proxy.cfg").read_text().replace("xrd.port 1094", f"xrd.port {port}")
        for seen, here in SEEN.items():
            text = text.replace(f" {seen}\n", f" {self.folder}/{here}\n")
        path = self.folder / "proxy.cfg"
        path.write_text(text)
        return path


def play(folder: Path, variables: dict[str, Any], *options: str, steps: tuple[str, ...] = STEPS) -> subprocess.CompletedProcess[str]:
    """Run the role's tasks, which then write below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config/secrets", "opt/env.d"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    roles = ROOT / "roles"
    templates = folder / "templates"
    if not templates.is_symlink():
        templates.symlink_to(roles / "xrootd" / "templates")
    tasks = "".join(TASK.format(roles=roles, step=step) for step in steps)
    (folder / "play.yml").write_text(PLAY.format(roles=roles, root=ROOT) + tasks)
    ours = {
        "mlaas_host_name": "mlaas.test",
        "mlaas_config_folder": str(folder / "config"),
        "mlaas_folder": str(folder / "opt"),
        "mlaas_xrootd_folder": str(folder / "data"),
        "_xrootd_seen": str(folder / "config" / "xrootd"),
        "ansible_python_interpreter": sys.executable,
        "ansible_connection": "local",
    }
    (folder / "variables.json").write_text(json.dumps(ours | variables))
    command = ["ansible-playbook", "--inventory=localhost,", f"--extra-vars=@{folder}/variables.json", *options, str(folder / "play.yml")]
    variables_of_ansible = environment(folder / "ansible") | {"ANSIBLE_PIPELINING": "true"}
    return subprocess.run(command, env=variables_of_ansible, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def render(folder: Path, **variables: Any) -> Rendered:
    """What the role writes with these variables."""
    done = play(folder, variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return Rendered(folder, done.stdout + done.stderr)
