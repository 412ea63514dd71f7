"""Sizes of memory and disk, and times, as people write them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def read_size(text: str) -> int:
    """Read a size such as "4GB", "512 MiB" or "3g"; returns bytes, more than 0. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{0,6})?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE | re.ASCII)
    if not found or float(found[1]) <= 0:
        raise ValueError(f'{text!r} is not a size; write e.g. "4GB", "512MB" or "2GiB"')
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def write_size(size: float) -> str:
    """A number of bytes for people, in powers of ten: "4.2 GB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"


_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def read_seconds(text: str) -> float:
    """Read a time such as "90", "45s", "30m", "1.5h", "2d" or "1:30:00"; returns seconds, more than 0. Raises ValueError."""
    plain = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{0,6})?)\s*(s|m|min|h|d)?\s*", text, re.IGNORECASE | re.ASCII)
    clock = re.fullmatch(r"\s*(\d{1,5}):([0-5]\d):([0-5]\d)\s*", text, re.ASCII)
    seconds = 0.0
    if plain:
        seconds = float(plain[1]) * _SECONDS[(plain[2] or "").lower()]
    elif clock:
        seconds = 3600.0 * int(clock[1]) + 60 * int(clock[2]) + int(clock[3])
    if seconds <= 0:
        raise ValueError(f'{text!r} is not a time; write seconds, or e.g. "30m", "1.5h", "2d" or "1:30:00"')
    return seconds


def _size(value: Any) -> Any:
    if isinstance(value, str):
        return read_size(value) if value.strip() else 0
    return value


Size = Annotated[int, BeforeValidator(_size)]
"""A field in bytes that may be given as text; empty text is 0."""
