"""Other libraries' errors in a few words, to be put into our sentences and manifests."""

from __future__ import annotations

from pathlib import Path

from mlaas.errors import MLaaSError

LONGEST = 240


def short(error: BaseException, folder: Path | None = None) -> str:
    """The type and the first line of an error (of our own errors the text), without the path of the folder that a bundle is being written in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if not isinstance(error, MLaaSError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if folder is not None:
        text = text.replace(f"{folder}/", "").replace(str(folder), "the bundle")
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
