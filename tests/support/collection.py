"""The repository as an Ansible collection: Ansible finds one by the names of its folders, so a link stands in for them.

python -m tests.support.collection COMMAND...      run an Ansible program where it finds the collection, e.g. ansible-lint
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "mlaas4hep.mlaas"


def collections_path() -> Path:
    """A folder for ANSIBLE_COLLECTIONS_PATH in which the collection is this repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mlaas-tests" / "collections"
    folder = cache / hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    namespace, name = NAME.split(".")
    link = folder / "ansible_collections" / namespace / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != ROOT:
        aside = link.with_name(f".{name}.{os.getpid()}")
        aside.symlink_to(ROOT)
        aside.replace(link)
    return folder


def environment(home: Path) -> dict[str, str]:
    """The environment in which Ansible finds the collection, its own programs, and no configuration of the user; `home` takes what it writes."""
    home.mkdir(parents=True, exist_ok=True)
    configuration = home / "ansible.cfg"
    configuration.touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return kept | {
        "ANSIBLE_COLLECTIONS_PATH": str(collections_path()),
        "ANSIBLE_CONFIG": str(configuration),
        "ANSIBLE_HOME": str(home),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_NOCOLOR": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


if __name__ == "__main__":
    found = environment(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mlaas-tests" / "ansible")
    os.execvpe(sys.argv[1], sys.argv[1:], found)  # noqa: S606
