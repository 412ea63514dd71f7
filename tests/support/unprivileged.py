"""Run a command as a user without privileges: `python -m tests.support.unprivileged USER FOLDER COMMAND...`, as root.

FOLDER is given to that user and is its HOME. Where Python or the repository lie in folders that are closed to others, a way to them is opened
in mounts of the command's own. The user id is a number that nobody else has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlaas.sandbox import namespace, privileges
from mlaas.sandbox.python import python_folders

REPOSITORY = Path(__file__).parents[2]


def main(arguments: list[str]) -> None:
    """Become the user and run the command."""
    user, folder, command = int(arguments[0]), Path(arguments[1]), arguments[2:]
    os.chown(folder, user, user)
    folder.chmod(0o700)
    if not namespace.enter():
        sys.exit("root may not mount here: the way to Python cannot be opened")
    namespace.open_ways([*python_folders(), REPOSITORY, folder], user, user)
    privileges.become(user)
    os.chdir(REPOSITORY)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    os.execvpe(command[0], command, environment)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
