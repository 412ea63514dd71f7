"""Where the Ansible collection `mlaas4hep.mlaas` is: the repository that this program runs from, or where ansible-galaxy installed it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import mlaas
from mlaas.errors import UserError, nearest

NAME = ("mlaas4hep", "mlaas")
PLAYBOOKS = ("site", "smoke", "upgrade", "backup", "restore", "destroy")


@dataclass(frozen=True)
class Collection:
    """The collection: its folder, its version, and whether it is a repository (that Ansible finds through a link only)."""

    folder: Path
    version: str
    repository: bool

    def path(self, scratch: Path) -> str:
        """A value for ANSIBLE_COLLECTIONS_PATH; `scratch` is a folder for the link to a repository."""
        if not self.repository:
            return str(self.folder.parents[2])
        link = scratch / "collections" / "ansible_collections" / NAME[0] / NAME[1]
        link.parent.mkdir(parents=True)
        link.symlink_to(self.folder)
        return str(scratch / "collections")

    def playbook(self, name: str) -> Path:
        """A playbook of the collection."""
        path = self.folder / "playbooks" / f"{name}.yml"
        if not path.is_file():
            raise UserError(f"the collection in {self.folder} (version {self.version}) has no playbook {name}")
        return path

    def inventory(self, name: str) -> Path:
        """An inventory: a path, or the name of one of the collection's."""
        if (own := self.folder / "inventories" / name).exists() and "/" not in name and name not in {".", ".."}:
            return own
        if (path := Path(name).expanduser()).exists():
            return path.absolute()
        names = sorted(path.name for path in (self.folder / "inventories").glob("*"))
        raise UserError(f"there is no inventory {name}{nearest(name, names)}: give its path, or one of {', '.join(names) or 'none'}")


def find() -> Collection:
    """The repository that this program is installed from, else the installed collection."""
    root = Path(mlaas.__file__).parents[1]
    if (manifest := root / "galaxy.yml").is_file() and (found := _of_repository(root, manifest)):
        return found
    given = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(":") if os.environ.get("ANSIBLE_COLLECTIONS_PATH") else []
    for place in (*given, "~/.ansible/collections", "/usr/share/ansible/collections"):
        folder = Path(place).expanduser() / "ansible_collections" / NAME[0] / NAME[1]
        if (folder / "MANIFEST.json").is_file():
            information = json.loads((folder / "MANIFEST.json").read_text())["collection_info"]
            return Collection(folder, str(information["version"]), False)
        if (folder / "galaxy.yml").is_file() and (found := _of_repository(folder, folder / "galaxy.yml")):
            return Collection(folder, found.version, False)
    raise UserError(f"the Ansible collection {'.'.join(NAME)} is not installed: ansible-galaxy collection install {'.'.join(NAME)}-VERSION.tar.gz")


def _of_repository(root: Path, manifest: Path) -> Collection | None:
    said = dict(re.findall(r"^(namespace|name|version): *[\"']?([^\"'\s]+)", manifest.read_text(), re.MULTILINE))
    if (said.get("namespace"), said.get("name")) != NAME:
        return None
    return Collection(root.resolve(), said.get("version", ""), True)
