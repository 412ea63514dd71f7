"""Whether this process is about to stop: streams end, readiness is false."""

from __future__ import annotations

import asyncio
import threading

_asked = threading.Event()
POLL = 0.25  # s


def stop() -> None:
    """Say that the process stops."""
    _asked.set()


def stopping() -> bool:
    """Whether the process stops."""
    return _asked.is_set()


async def pause(seconds: float) -> bool:
    """Sleep, but not for long once the process stops; returns whether to go on. What a stream does between two looks."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not stopping() and (left := until - loop.time()) > 0:
        await asyncio.sleep(min(POLL, left))
    return not stopping()
