"""Peak memory of the whole chain on one file: prepare, then chunks of 100,000 events. Prints bytes: peak, and one chunk's matrix."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench import cases


def main() -> None:
    """Run once."""
    path, folder, handled = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "handled"
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        job = cases.prepared([path], Path(cache), handled=handled)
        chunks = cases.Chunks(job, stored=handled)
        chunks.run(chunks.dataset())
        print(peak(), cases.matrix_bytes(job, 100_000))


def peak() -> int:
    """The largest resident size so far, in bytes (getrusage would count the parent's too)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
