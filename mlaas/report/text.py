"""Numbers, sizes and addresses as a reader wants them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

SECRET = re.compile(r"(?i)(password|passwd|secret|token|credential|authz|signature|access_?key|api_?key)")
HIDDEN = "[hidden]"


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def size(nbytes: float) -> str:
    """Bytes in decimal units: "83.9 MB"."""
    if abs(nbytes) < 1000:
        return f"{nbytes:.0f} B"
    scaled, units = nbytes / 1000, ["kB", "MB", "GB", "TB"]
    while abs(scaled) >= 999.5 and len(units) > 1:
        scaled, units = scaled / 1000, units[1:]
    return f"{scaled:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """Seconds as "3.2 s", "4 min 05 s" or "2 h 03 min"."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 59.95 else "60 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def value(item: Any) -> str:
    """Any scalar for a table: floats with six digits, whole numbers with thin spaces, a dash for nothing or NaN."""
    if item is None:
        return "–"
    if isinstance(item, bool | np.bool_):
        return "yes" if item else "no"
    if isinstance(item, int | np.integer):
        return count(int(item))
    if isinstance(item, float | np.floating):
        return f"{item:.6g}" if math.isfinite(item) else "∞" if item > 0 else "−∞" if item < 0 else "–"
    return str(item)


def scalar(item: Any) -> bool:
    """Whether `value` can show it in one cell."""
    return item is None or isinstance(item, str | bool | int | float | np.number | np.bool_)


def redact(text: str) -> str:
    """An address without its credentials: user:password@ and the values of query keys that name a secret or a token."""
    text = re.sub(r"(?<=://)[^/@\s]+@", f"{HIDDEN}@", text)
    return re.sub(r"([?&][^=&\s]*=)([^&\s]+)", lambda match: match[1] + (HIDDEN if SECRET.search(match[1]) else match[2]), text)


def redacted(item: Any, name: str = "") -> Any:
    """A document with every address redacted and every value whose key names a secret hidden."""
    if isinstance(item, Mapping):
        return {str(key): redacted(part, str(key)) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [redacted(part, name) for part in item]
    if isinstance(item, str):
        return HIDDEN if item and SECRET.search(name) else redact(item)
    return item


def document(item: Mapping[str, Any]) -> str:
    """The workflow document as indented JSON, without credentials."""
    return json.dumps(redacted(item), indent=2, ensure_ascii=False, default=str)
