"""Peak memory of the whole chain on one file: prepare, then chunks of 100,000 events. Prints bytes: peak, and one chunk's matrix."""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

from tests.bench import cases


def main() -> None:
    """Run once."""
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        job = cases.prepared([path], Path(cache), handled=False)
        chunks = cases.Chunks(job)
        chunks.run(chunks.dataset())
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, cases.matrix_bytes(job, 100_000))


if __name__ == "__main__":
    main()
