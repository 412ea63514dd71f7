"""What this machine offers to a training: memory within the limits of its container, and whether there is a GPU."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from mlaas.errors import WorkflowError
from mlaas.settings import settings
from mlaas.sizes import read_size
from mlaas.workflow import Params

CONTROL_GROUP = Path("/sys/fs/cgroup")


def parse_size(text: str, field: str = "params.memory_limit") -> int:
    """Read a size such as "4GB" (`mlaas.sizes.read_size`). Raises WorkflowError naming the field."""
    try:
        return read_size(text)
    except ValueError as error:
        raise WorkflowError(f"{field}: {error}") from None


def available_memory() -> int:
    """Bytes that can still be had: of the machine, or of the container (control group) when that is less."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit in it ("max")
        limit, used = (int((CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used + _page_cache())
    return max(free, 0)


def _page_cache() -> int:
    """Bytes of files in memory that count as the container's but that the kernel gives back (as Kubernetes and Docker count them)."""
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        return next((int(value) for name, value in pairs if name == "inactive_file"), 0)
    return 0


def memory_limit(params: Params) -> int:
    """Bytes that an estimator may use which needs all data at once: the workflow's limit, the site's, or half of what is available."""
    if params.memory_limit:
        return parse_size(params.memory_limit)
    site = settings().memory_limit
    return parse_size(site, "MLAAS_MEMORY_LIMIT") if site else available_memory() // 2


def gigabytes(size: float) -> str:
    """A size in bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def gpu_present() -> bool:
    """Whether the machine has an NVIDIA GPU that this process may see (for libraries that do not tell)."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        return False
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/gpus").is_dir()
