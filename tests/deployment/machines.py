"""Machines by hand, and for molecule's playbooks.

python -m tests.deployment.machines run COMMAND...      with the outer engine up; e.g. `run molecule test -s tls-default`, or `run bash`
python -m tests.deployment.machines start NAME ...      inside of that: boot a machine
python -m tests.deployment.machines remove NAME
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.support.collection import collections_path
from tests.support.vm import SYSTEMS, Machines, golden, machines

ROOT = Path(__file__).parents[2]


def environment(found: Machines) -> dict[str, str]:
    """What molecule and its playbooks need to find the engine, the repository and the collection."""
    tools = Path(sys.executable).parent
    return os.environ | {
        "DOCKER_HOST": found.url,
        "MLAAS_TEST_MACHINES": str(found.folder),
        "MLAAS_TEST_PYTHON": sys.executable,
        "ANSIBLE_COLLECTIONS_PATH": str(collections_path()),
        "ANSIBLE_HOME": str(found.folder / "ansible"),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "NO_COLOR": "1",
    }


def _given() -> Machines:
    return Machines(os.environ["DOCKER_HOST"], Path(os.environ["MLAAS_TEST_MACHINES"]))


def _run(command: list[str]) -> int:
    with machines() as found:
        return subprocess.run(command, env=environment(found), cwd=ROOT, check=False).returncode


def _start(arguments: argparse.Namespace) -> int:
    images = golden() if arguments.images else None
    _given().start(arguments.name, arguments.system, with_docker=arguments.docker, golden=images)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.deployment.machines")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a command with the outer engine up")
    run.add_argument("words", nargs=argparse.REMAINDER)
    start = commands.add_parser("start", help="boot a machine")
    start.add_argument("name")
    start.add_argument("--system", choices=SYSTEMS, default="debian12")
    start.add_argument("--docker", action="store_true", help="with Docker installed")
    start.add_argument("--images", action="store_true", help="with the product's images")
    remove = commands.add_parser("remove", help="end a machine")
    remove.add_argument("name")
    return parser


def main() -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args()
    if arguments.command == "run":
        return _run(arguments.words)
    if arguments.command == "start":
        return _start(arguments)
    _given().remove(arguments.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
