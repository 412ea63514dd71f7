"""One part of `mlaas serve`: `python -m mlaas.service PART [FD]`. It ends when the process that started it does."""

from __future__ import annotations

import os
import sys

from mlaas.errors import MLaaSError
from mlaas.service.parts import PARTS
from mlaas.settings import settings
from mlaas.web.workers import die_with_parent


def main(part: str, parent: str, fd: str = "") -> int:
    """Run the part; 2 where the user can mend what is wrong, which is then said."""
    die_with_parent(int(parent))
    try:
        return PARTS[part](settings(), int(fd) if fd else None)
    except MLaaSError as error:
        print(f"mlaas {part}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(*sys.argv[1:]))
