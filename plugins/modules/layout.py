#!/usr/bin/python
"""Ansible module: folders and text files of one place, in one look."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlaas4hep.mlaas.plugins.module_utils import whole

DOCUMENTATION = r"""
---
module: layout
short_description: Bring folders and text files into a given state, all of one place at once
description:
  - What file and copy do in a loop, in one look at the machine instead of two for each file.
  - A file appears by one rename, with its owner and mode. What is there already, as it should be, is not touched.
  - Not for secrets; these have a module of their own.
options:
  folder: {description: The folder that relative paths begin at. It must be there or be among the folders., type: path, required: true}
  folders:
    description: Folders. What is missing above them is made, too, as root's and open to read.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The folder., type: path, required: true}
      owner: {description: Number of its owner and group., type: int, default: 0}
      mode: {description: Its mode (octal)., type: str, default: "0755"}
  files: {description: What is in each file by its path. What is no text is written as JSON., type: dict, default: {}}
  absent: {description: Paths that must not be there., type: list, elements: path, default: []}
  owner: {description: Number of the owner and group of the files., type: int, default: 0}
  mode: {description: Mode of the files (octal)., type: str, default: "0644"}
author: [The MLaaS4HEP developers]
attributes:
  check_mode: {support: full, description: Says what would be done.}
  diff_mode: {support: full, description: Shows files before and after.}
"""

EXAMPLES = r"""
- name: Write the pages
  mlaas4hep.mlaas.layout:
    folder: /etc/mlaas/gateway
    folders: [{path: /etc/mlaas/gateway}]
    files: {errors/404.json: '{"error": "there is nothing here"}'}
"""

RETURN = r"""
paths: {description: What was made or changed or removed., type: list, returned: always}
checksum: {description: SHA-256 over paths and content of all files., type: str, returned: always}
"""


class Layout:
    """What is done, and what was."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.base = Path(module.params["folder"])
        self.paths: list[str] = []
        self.diff: list[dict[str, str]] = []

    def note(self, path: Path, **shown: str) -> bool:
        """Note a change; returns whether it is to be made."""
        self.paths.append(str(path))
        if shown:
            self.diff.append({"before_header": str(path), "after_header": str(path), **shown})
        return not self.module.check_mode

    def attributes(self, path: Path, owner: int, mode: int) -> None:
        """Its owner and mode."""
        found = path.lstat()
        if (found.st_uid, found.st_gid, found.st_mode & 0o7777) != (owner, owner, mode) and self.note(path):
            os.chown(path, owner, owner)
            path.chmod(mode)

    def make_folder(self, path: Path, owner: int, mode: int) -> None:
        """A folder; a link to one is taken as it is, as that of a disk elsewhere."""
        if path.is_dir():
            self.attributes(path.resolve(), owner, mode)
        elif path.exists() or path.is_symlink():
            self.module.fail_json(msg=f"{path} must be a folder, and is something else")
        elif self.note(path):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
            os.chown(path, owner, owner)
            path.chmod(mode)

    def write(self, path: Path, text: str, owner: int, mode: int) -> None:
        """A file."""
        content = text.encode()
        try:
            before = None if path.is_symlink() else path.read_bytes()
        except FileNotFoundError:
            before = None
        if before == content:
            self.attributes(path, owner, mode)
        elif self.note(path, before=(before or b"").decode(errors="replace"), after=text):
            whole.write(path, content, owner, owner, mode)

    def remove(self, path: Path) -> None:
        """A file or a folder with all that it holds."""
        if (path.exists() or path.is_symlink()) and self.note(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _octal(module: AnsibleModule, text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        module.fail_json(msg=f"mode must be an octal number such as 0644, got: {text}")
        raise


def main() -> None:
    folder = {"path": {"type": "path", "required": True}, "owner": {"type": "int", "default": 0}, "mode": {"type": "str", "default": "0755"}}
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "folders": {"type": "list", "elements": "dict", "default": [], "options": folder},
            "files": {"type": "dict", "default": {}},
            "absent": {"type": "list", "elements": "path", "default": []},
            "owner": {"type": "int", "default": 0},
            "mode": {"type": "str", "default": "0644"},
        },
        supports_check_mode=True,
        no_log=True,  # the whole content would go into the machine's journal
    )
    given: dict[str, Any] = module.params
    layout, total = Layout(module), hashlib.sha256()
    path = layout.base
    try:
        for wanted in given["folders"]:
            path = layout.base / wanted["path"]
            layout.make_folder(path, wanted["owner"], _octal(module, wanted["mode"]))
        for name, content in sorted(given["files"].items()):
            path = layout.base / name
            text = content if isinstance(content, str) else json.dumps(content, indent=4, sort_keys=True) + "\n"
            layout.write(path, text, given["owner"], _octal(module, given["mode"]))
            total.update(f"{name}\0{text}\0".encode())
        for name in given["absent"]:
            path = layout.base / name
            layout.remove(path)
    except OSError as error:
        module.fail_json(msg=f"{path} cannot be written: {error.strerror}")
    module.exit_json(changed=bool(layout.paths), paths=layout.paths, checksum=total.hexdigest(), diff=layout.diff)


if __name__ == "__main__":
    main()
