"""Programs that tests start: on the PATH, or where Debian keeps those that it leaves out of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ELSEWHERE = ("/usr/sbin", "/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)))


def find_program(name: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *ELSEWHERE]))
