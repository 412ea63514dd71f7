"""The command `mlaas`: flags in, exit code out.

0 done; 1 a fault of the program; 2 something the user can mend, told in one sentence; 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mlaas import __version__, commands
from mlaas.commands_service import flags as service
from mlaas.commands_service import predict as predicting
from mlaas.demo import COMPRESSIONS, LAYOUTS, PROFILES
from mlaas.errors import Cancelled, MLaaSError
from mlaas.signals import stopping
from mlaas.tosca import flags as tosca

_FLAGS: dict[str, dict[str, Any]] = {
    "--files": {"help": "text file with one path per line (# skips a line), or a comma list; local paths, globs, root://, http(s)://, s3://"},
    "--labels": {"help": "text file with one label per file, a comma list, or the name of the branch that holds the label"},
    "--model": {"help": "Python file that defines model(idim) and returns a Keras, PyTorch, scikit-learn or XGBoost model"},
    "--params": {"help": "JSON file of parameters (see mlaas/REFERENCE.md); without it the defaults hold"},
    "--preproc": {"help": "JSON file of new branches and cuts"},
    "--specs": {"help": "JSON file of specs to use instead of computing them; refused when they do not fit the data"},
    "--dtype": {"choices": ["root", "csv", "json", "parquet", "avro"], "help": "format of the files (default: by their names)"},
    "--name": {"help": "name of the model in its bundle (default: the name of the output folder)"},
    "--procedure": {"choices": ["passes", "chunks"], "help": "overrides params.procedure"},
}
_DATA = ("--files", "--labels", "--params", "--preproc", "--specs", "--dtype")
_ALL = (*_DATA[:2], "--model", *_DATA[2:], "--name", "--procedure")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, as all others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"mlaas: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = _Parser(
        prog="mlaas",
        description="Machine learning as a service for high-energy physics: ROOT files in, a trained and checked model out.",
        epilog="A first run: mlaas generate demo, then the commands it prints; or mlaas serve, and the same by a service. "
        "Help on a command: mlaas workflow --help",
    )
    top.add_argument("--version", action="version", version=f"mlaas {__version__}")
    _common(top, False)
    stages = top.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True, parser_class=_Parser)
    for add in (_workflow, _specs, _inspect, _prepare, _fit, _predict, _replay, _generate, _version):
        add(stages)
    service.add(stages, _command)
    tosca.add(stages, _command)
    return top


def _command(
    stages: Any, name: str, purpose: str, example: str, text: str = "", *, run: Callable[[argparse.Namespace], None] | None = None
) -> argparse.ArgumentParser:
    description = f"{purpose}\n\n{text}".strip()
    command: argparse.ArgumentParser = stages.add_parser(name, help=purpose, description=description, epilog=f"example:\n  {example}")
    command.set_defaults(run=run or getattr(commands, name))
    _common(command, argparse.SUPPRESS)
    return command


def _common(command: argparse.ArgumentParser, default: Any) -> None:
    command.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")
    command.add_argument("--quiet", action="store_true", default=default, help="show no progress")


def _flags(command: argparse.ArgumentParser, names: Sequence[str], required: Sequence[str]) -> None:
    for name in names:
        metavar = None if "choices" in _FLAGS[name] else name[2:].upper()
        command.add_argument(name, required=name in required, metavar=metavar, **_FLAGS[name])


def _training(command: argparse.ArgumentParser) -> None:
    _flags(command, _ALL, ("--files", "--labels", "--model"))
    command.add_argument("--fout", metavar="FOLDER", help="folder of the bundle (default: the name, else 'model')")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint of a run that was stopped")


def _workflow(stages: Any) -> None:
    command = _command(
        stages,
        "workflow",
        "Train on files of events: specs, preparation, training, evaluation, export.",
        "mlaas workflow --files=files.txt --labels=labels.txt --model=model.py --params=params.json --preproc=preproc.json",
        "Takes the flags of MLaaS4HEP's workflow.py unchanged. The bundle holds the model and all that is needed to predict on raw events.",
    )
    _training(command)


def _specs(stages: Any) -> None:
    command = _command(
        stages,
        "specs",
        "Compute the specs: range, longest list and type of each branch, and the numbers of events.",
        "mlaas specs --files=files.txt --params=params.json --fout=specs.json",
    )
    _flags(command, _DATA, ("--files",))
    command.add_argument("--fout", metavar="FILE", help="write the specs to this JSON file (usable with --specs)")
    command.add_argument("--json", action="store_true", help="print JSON in the published form instead of a table")


def _inspect(stages: Any) -> None:
    command = _command(
        stages,
        "inspect",
        "Show what a file holds: branches, types, ranges, longest lists, events, and what cannot be a feature.",
        "mlaas inspect signal.root --tree=events",
    )
    command.add_argument("file", metavar="FILE", help="path or URL of a file of events")
    command.add_argument("--tree", help="path of the TTree or RNTuple (default: every one in the file)")
    command.add_argument("--redirector", default="", help="prefix for a bare name that is not a local file")
    _flags(command, ("--dtype",), ())
    command.add_argument("--no-ranges", action="store_true", help="do not read the values: names, types and events only")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _prepare(stages: Any) -> None:
    command = _command(
        stages,
        "prepare",
        "Read, cut and keep the selected columns as handled data, which `mlaas fit` trains from.",
        "mlaas prepare --files=files.txt --labels=labels.txt --params=params.json --preproc=preproc.json",
        "The handled data lie in MLAAS_CACHE, keyed by their inputs: on shared storage one machine prepares and another fits.",
    )
    _flags(command, (*_DATA, "--model"), ("--files", "--labels"))


def _fit(stages: Any) -> None:
    command = _command(
        stages,
        "fit",
        "Train on handled data that `mlaas prepare` left with the same flags.",
        "mlaas fit --files=files.txt --labels=labels.txt --model=model.py --params=params.json --preproc=preproc.json",
    )
    _training(command)


def _predict(stages: Any) -> None:
    command = _command(
        stages,
        "predict",
        "Score raw events with a bundle, or with a model of the service.",
        "mlaas predict ttH new.root --output=scores --format=root",
        "Writes one file of scores per input: a ROOT friend tree aligned by entry, or Parquet; prints the paths.\n"
        "With --events it prints one score per line.\n\n"
        "The model is one of the service when a server is named, or when there is no such folder here. Files of\n"
        "this machine are then uploaded for a job, and its scores are fetched.",
        run=predicting.predict,
    )
    command.add_argument(
        "bundle", metavar="MODEL", help="folder of a bundle, or a model of the service (name, name@version, name@alias, tenant:name)"
    )
    command.add_argument("files", metavar="FILE", nargs="*", help="paths, globs or URLs of files of events")
    command.add_argument("--tree", help="path of the TTree or RNTuple (default: the one that the model was trained on)")
    command.add_argument("--redirector", default="", help="prefix for bare names that are not local files (bundles only)")
    command.add_argument("--output", metavar="FOLDER", default=".", help="folder of the scores (default: this one)")
    command.add_argument("--format", choices=["root", "parquet"], default="root", help="default: root")
    command.add_argument(
        "--engine",
        choices=["auto", "onnx", "native"],
        default="auto",
        help="auto: ONNX when the bundle accepted it, else the native model (bundles only)",
    )
    _trust(command, "load a model that can only be unpickled; a pickle can run any code")
    command.add_argument("--events", metavar="FILE", help="raw events as JSON (- for standard input): columns by branch name, or a list of events")
    command.add_argument("--workspace", metavar="NAME", help="the files are in this workspace; nothing is uploaded (service only)")
    command.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="default: cpu (service only)")
    service.connection(command)
    command.add_argument("--json", action="store_true", help="with --events: print the answer of the service as JSON")


def _replay(stages: Any) -> None:
    command = _command(
        stages,
        "replay",
        "Train again from what a bundle records, and compare.",
        "mlaas replay ttH --trust",
    )
    command.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    command.add_argument("--fout", metavar="FOLDER", help="folder of the new bundle (default: BUNDLE-replay)")
    _trust(command, "run the model.py of the bundle")


def _trust(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--trust", action="store_true", help=f"{what}: only for bundles from someone you trust")


def _generate(stages: Any) -> None:
    command = _command(
        stages,
        "generate",
        "Write toy ttH-like ROOT files (signal and background) and a workflow that trains on them.",
        "mlaas generate demo --events=100000",
        "22 flat and 52 jagged branches, three identifiers. The same seed gives the same events, whatever the layout.",
    )
    command.add_argument("folder", metavar="FOLDER", help="folder of the files")
    command.add_argument("--events", type=int, default=100_000, help="events in all, half of them signal (default: 100000)")
    command.add_argument("--profile", choices=PROFILES, default="brief", help="brief: 31 list entries per event; seed: 13 (default: brief)")
    command.add_argument("--seed", type=int, default=1, help="default: 1")
    command.add_argument("--layout", choices=LAYOUTS, default="counters", help="counters: leaf-count arrays; vector: std::vector; rntuple")
    command.add_argument("--compression", choices=COMPRESSIONS, default="zlib", help="default: zlib")
    command.add_argument("--basket", type=int, default=10_000, help="events per basket or cluster (default: 10000)")
    command.add_argument("--mixed", action="store_true", help="write mixed.root instead: three processes, with branches process and ptH as targets")
    command.add_argument("--data-only", action="store_true", help="write no workflow files")


def _version(stages: Any) -> None:
    command = _command(stages, "version", "Show the versions of mlaas, Python and the frameworks, and the settings in force.", "mlaas version --json")
    command.add_argument("--json", action="store_true", help="print JSON")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; `arguments` defaults to those of the process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = parser().parse_args(arguments)
    try:
        with stopping():
            options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; Python would complain again when it exits
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if options.debug:
            traceback.print_exc()
        code, text = explain(error)
        print(f"mlaas: {text}", file=sys.stderr)
        return code
    return 0


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for an error."""
    if isinstance(error, KeyboardInterrupt | Cancelled):
        return Cancelled.exit_code, str(error) or "stopped"
    if isinstance(error, MLaaSError):
        return error.exit_code, str(error)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return 2, f"the disk is full{f': {error.filename}' if error.filename else ''}; free some space, or set MLAAS_CACHE to another place"
    if isinstance(error, PermissionError) and error.filename:
        return 2, f"{error.filename}: access is refused; check its permissions"
    if isinstance(error, MemoryError):
        return 2, "the memory does not suffice; lower params.chunk_size or params.workers"
    return 1, f"a fault of the program: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]} (--debug shows where; please report it)"


if __name__ == "__main__":
    sys.exit(main())
