"""The flags of `mlaas tosca`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mlaas.tosca import commands

Command = Callable[..., argparse.ArgumentParser]


def add(stages: Any, command: Command) -> None:
    """Add `mlaas tosca` to the command line; `command` makes one."""
    purpose = "Check and write the TOSCA templates that orchestrators deploy the service from."
    made = command(stages, "tosca", purpose, "mlaas tosca validate", run=commands.validate)
    inner = made.add_subparsers(title="subcommands", metavar="SUBCOMMAND", dest="subcommand", required=True, parser_class=type(made))
    _validate(inner, command)
    _render(inner, command)


def _validate(stages: Any, command: Command) -> None:
    made = command(
        stages,
        "validate",
        "Check templates and forms for all that would read them: tosca-parser, the Infrastructure Manager, dodas, the INDIGO orchestrator.",
        "mlaas tosca validate tosca/vm.yaml --parameters=tosca/catalogue/tosca-parameters/vm.parameters.yml",
        "Needs no network: imports are looked for among the given files and in the folders beside them, by the end of their\n"
        "address. Each mistake is shown with its file, its line and the reason. Without files it checks the folder tosca.",
        run=commands.validate,
    )
    made.add_argument("files", metavar="FILE", nargs="*", help="templates, types, or folders of them (default: tosca)")
    made.add_argument(
        "--parameters",
        action="append",
        metavar="FILE",
        help="form of INFN's dashboard for the one template given; in folders they are found",
    )


def _render(stages: Any, command: Command) -> None:
    made = command(
        stages,
        "render",
        "Write the templates, the play and the dashboards' forms, for the addresses where you publish them.",
        "mlaas tosca render --output=tosca",
        run=commands.render,
    )
    made.add_argument("--output", metavar="FOLDER", default="tosca", help="folder of the files (default: tosca)")
    made.add_argument("--files", metavar="URL", default="", help="where the repository's files of a version are; {version} stands for it")
    made.add_argument("--collection", metavar="URL", default="", help="where the Ansible collection of a version is; {version} stands for it")
    made.add_argument("--release", metavar="VERSION", default="", help="version of the templates (default: that of this program)")
    made.add_argument("--check", action="store_true", help="write nothing; fail when a file is not what would be written")
