"""Where this Python is, and the system below it: what any process of ours must be able to read."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable
from pathlib import Path

import mlaas

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/cvmfs", "/nix/store", "/gnu/store")


def python_folders() -> list[Path]:
    """Where this Python and its packages are, by their names and, where links lead to them, by their real ones too."""
    folders = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix), Path(mlaas.__file__).parent]
    folders += [Path(sys.executable).resolve().parent, *map(Path, site.getsitepackages())]
    if site.ENABLE_USER_SITE:
        folders.append(Path(site.getusersitepackages()))
    return _there(folders)


def _there(folders: Iterable[Path]) -> list[Path]:
    both = [path for folder in folders if folder.exists() for path in (folder, Path(os.path.realpath(folder)))]
    return list(dict.fromkeys(both))


def python_user_base() -> dict[str, str]:
    """The variable by which a process with another HOME finds packages that were installed for this user only."""
    return {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE and Path(site.getusersitepackages()).exists() else {}
