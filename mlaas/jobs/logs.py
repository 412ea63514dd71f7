"""The log of a job: pieces of it, its last lines, and the sentence in which the job itself said why it failed."""

from __future__ import annotations

import os
from pathlib import Path

from mlaas.beneath import open_beneath

LOG = "log.txt"
PIECE = 1 << 16
MOST_LINES = 100_000
SENTENCE = 600  # characters
FAULT = "mlaas: "


def tail(folder: Path, offset: int, limit: int = PIECE) -> bytes:
    """At most `limit` bytes of the log of a job's folder from an offset on; empty where there are none (yet)."""
    try:
        descriptor = open_beneath(folder, LOG)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(descriptor, limit, offset)
    finally:
        os.close(descriptor)


def start_of_tail(descriptor: int, lines: int) -> int:
    """The offset at which the last `lines` lines of an open log begin; a last line without its end counts too. At most MOST_LINES are looked for."""
    size = os.fstat(descriptor).st_size
    wanted = min(lines, MOST_LINES)
    if wanted <= 0:
        return size
    end = size
    ended = bool(size) and os.pread(descriptor, 1, size - 1) == b"\n"
    left = wanted + ended  # line ends from behind: the last of them ends the last line
    while end > 0:
        start = max(0, end - PIECE)
        piece = os.pread(descriptor, end - start, start)
        place = len(piece)
        while left and (place := piece.rfind(b"\n", 0, place)) >= 0:
            left -= 1
            if not left:
                return start + place + 1
        end = start
    return 0


def fault(folder: Path) -> str:
    """The last line in which the command said what was wrong, without its name; else the last line at all; else an empty string."""
    try:
        descriptor = open_beneath(folder, LOG)
    except FileNotFoundError:
        return ""
    try:
        size = os.fstat(descriptor).st_size
        text = os.pread(descriptor, PIECE, max(0, size - PIECE)).decode(errors="replace")
    finally:
        os.close(descriptor)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.removeprefix(FAULT) for line in lines if line.startswith(FAULT)]
    last = next(iter([*said[-1:], *lines[-1:]]), "")
    clean = "".join(character if character.isprintable() else " " for character in last)
    return clean if len(clean) <= SENTENCE else f"{clean[: SENTENCE - 3]}..."
