"""Files that appear whole: with their owner and mode, by one rename."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: Path, content: bytes, owner: int, group: int, mode: int) -> None:
    """Let a file hold this content. Nobody else can read it meanwhile, and a reader never sees half of it. Raises OSError."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chown(aside, owner, group)
        aside.chmod(mode)
        aside.replace(path)
    except BaseException:
        aside.unlink()
        raise


def state(path: Path) -> str:
    """A text that changes whenever a file is written, and tells nothing of its content: ms, for an archive that it is restored from knows no more."""
    return str(round(path.stat().st_mtime_ns / 10**6))
