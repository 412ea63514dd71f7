"""The flags of the commands of the service."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mlaas.commands_service import flags_deploy, jobs, login, models, serve, submit
from mlaas.sizes import read_seconds

Command = Callable[..., argparse.ArgumentParser]
STATES = ("queued", "starting", "running", "publishing", "succeeded", "failed", "cancelled", "timed_out")
JOB = "a job: its name (ttH_1) or its id"
MODEL = "a model: name, or name@version, name@alias; tenant:name if it is shared with you"


def add(stages: Any, command: Command) -> None:
    """Add the commands of the service to the command line; `command` makes one."""
    for part in (_login, _submit, _workspaces, _jobs, _models, _serve):
        part(stages, command)
    flags_deploy.add(stages, command)


def _time(text: str) -> float:
    try:
        return read_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _NoToken(argparse.Action):
    """Refuses a token on the command line."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.error("a token on the command line can be read by everybody on this machine; use --token-file=FILE, or - for standard input")


def connection(command: argparse.ArgumentParser) -> None:
    """The flags that say which server, and which token."""
    group = command.add_argument_group("the service")
    group.add_argument("--server", metavar="URL", help="address of the server (default: MLAAS_SERVER, else the last login, else this machine)")
    group.add_argument("--token-file", metavar="FILE", help="file with the token, - for standard input (default: see mlaas login --help)")
    group.add_argument("--oidc-agent", metavar="ACCOUNT", help="take the token from this account of oidc-agent (default: MLAAS_OIDC_AGENT)")
    group.add_argument("--ca-file", metavar="FILE", help="CA certificates (PEM) to check the server with (default: MLAAS_CA_FILE, the system's)")
    group.add_argument("--insecure", action="store_true", help="send the token even unencrypted, over http:// to another machine")
    group.add_argument("--token", action=_NoToken, nargs="?", help=argparse.SUPPRESS)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _login(stages: Any, command: Command) -> None:
    made = command(
        stages,
        "login",
        "Sign in at a service, and stay so.",
        "mlaas login --server=https://mlaas.example.org",
        "With an OpenID provider it shows an address and a code for a browser on any device (device flow), and keeps\n"
        "the tokens, which it renews by itself, in $XDG_CONFIG_HOME/mlaas/logins.json (mode 0600).\n"
        "With an embedded token it takes that from --token-file, or asks for it.\n\n"
        "Signing in is not needed where a token is found. It is looked for in this order: --token-file; BEARER_TOKEN,\n"
        "BEARER_TOKEN_FILE; oidc-agent, where an account is named; what login keeps; $XDG_RUNTIME_DIR/bt_u<uid>,\n"
        "/tmp/bt_u<uid>; oidc-agent, by the issuer (OIDC_SOCK); the data folder of `mlaas serve` on this machine.\n"
        "A token that is not of an issuer of the service is passed over.",
        run=login.login,
    )
    connection(made)
    made.add_argument("--issuer", metavar="URL", help="which of the service's OpenID providers, where it has several")
    made = command(stages, "logout", "Forget a sign-in, and end it at the provider.", "mlaas logout", run=login.logout)
    made.add_argument("--server", metavar="URL", help="where (default: where you signed in last)")
    made.add_argument("--all", action="store_true", help="everywhere")
    made = command(stages, "whoami", "Show who you are for the service, and what you use of what you may have.", "mlaas whoami", run=login.whoami)
    connection(made)
    _json(made)


def _submit(stages: Any, command: Command) -> None:
    made = command(
        stages,
        "submit",
        "Upload what a training needs to the service, and submit it.",
        "mlaas submit --files=files.txt --labels=labels.txt --model=model.py --params=params.json --follow",
        "Uploads the named files, and the files of events in the list that are in this folder; absolute paths,\n"
        "/store/... and URLs are read by the service. With --folder everything in it is uploaded, without hidden\n"
        "files, caches, keys and proxies. Nothing is sent when the workspace holds just these files.\n"
        "Prints the name of the job. With --follow it exits with 0 only if the job succeeds; Ctrl-C leaves it alone.",
        run=submit.submit,
    )
    made.add_argument("--files", required=True, metavar="FILES", help="text file with one path per line, or a comma list")
    made.add_argument(
        "--labels", required=True, metavar="LABELS", help="text file with one label per file, a comma list, or the branch that holds the label"
    )
    made.add_argument("--model", required=True, metavar="MODEL", help="Python file that defines model(idim)")
    made.add_argument("--params", metavar="PARAMS", help="JSON file of parameters")
    made.add_argument("--preproc", metavar="PREPROC", help="JSON file of new branches and cuts")
    made.add_argument("--specs", metavar="SPECS", help="JSON file of specs")
    made.add_argument("--dtype", choices=["root", "csv", "json", "parquet", "avro"], help="format of the files (default: by their names)")
    made.add_argument("--name", metavar="NAME", help="name of the model (default: that of the workspace); each training is its next version")
    made.add_argument("--workspace", metavar="NAME", help="name of the workspace (default: that of the folder)")
    made.add_argument("--folder", metavar="FOLDER", help="upload this folder, to which the other flags then refer")
    _exclude(made)
    made.add_argument("--no-upload", action="store_true", help="upload nothing: take what the workspace holds")
    made.add_argument("--device", choices=["cpu", "gpu"], help="default: cpu")
    made.add_argument("--gpus", type=int, metavar="N", help="GPUs, with --device=gpu (default: 1)")
    made.add_argument("--cpus", type=float, metavar="N", help="CPUs (default: the site's)")
    made.add_argument("--memory", metavar="SIZE", help='memory, e.g. "8GB" (default: the site\'s)')
    made.add_argument(
        "--time-limit", type=_time, metavar="TIME", help="longest time that the job may run: seconds, 30m, 1.5h, 2d, 1:30:00 (default: the site's)"
    )
    made.add_argument("--follow", "-f", action="store_true", help="show the log until the job has ended")
    connection(made)
    made.add_argument("--json", action="store_true", help="print the job as JSON instead of its name")


def _exclude(command: argparse.ArgumentParser) -> None:
    command.add_argument("--exclude", action="append", metavar="PATTERN", help="names or paths of a folder that are not uploaded; may be given again")


def _nested(stages: Any, command: Command, name: str, purpose: str, example: str, run: Any) -> Any:
    """A command that does something of its own (it lists), and has subcommands."""
    made = command(stages, name, purpose, example, run=run)
    connection(made)
    _json(made)
    return made.add_subparsers(title="subcommands", metavar="SUBCOMMAND", dest="subcommand", parser_class=type(made))


def _sub(stages: Any, command: Command, name: str, purpose: str, example: str, run: Any, *arguments: tuple[str, str]) -> argparse.ArgumentParser:
    made = command(stages, name, purpose, example, run=run)
    for argument, meaning in arguments:
        made.add_argument(argument, metavar=argument.upper(), help=meaning)
    connection(made)
    return made


def _workspaces(stages: Any, command: Command) -> None:
    inner = _nested(stages, command, "workspaces", "List the folders that you uploaded; or upload one.", "mlaas workspaces", submit.workspaces)
    made = _sub(
        inner,
        command,
        "upload",
        "Upload a folder.",
        "mlaas workspaces upload ttH_files --name=ttH",
        submit.upload_folder,
        ("folder", "folder; hidden files, caches, keys and proxies in it are left out"),
    )
    made.add_argument("--name", metavar="NAME", help="name of the workspace (default: that of the folder)")
    _exclude(made)
    made = _sub(inner, command, "files", "List the files of a workspace.", "mlaas workspaces files ttH", submit.list_files, ("workspace", "its name"))
    _json(made)
    _sub(
        inner,
        command,
        "delete",
        "Delete a workspace; jobs that use it keep what they have.",
        "mlaas workspaces delete ttH",
        submit.delete_workspace,
        ("workspace", "its name"),
    )


def _states(text: str) -> str:
    if text not in STATES:
        raise argparse.ArgumentTypeError(f"{text!r} is no state; there are {', '.join(STATES)}")
    return text


def _jobs(stages: Any, command: Command) -> None:
    made = command(stages, "jobs", "List your jobs, newest first.", "mlaas jobs --state=running", run=jobs.jobs)
    made.add_argument("--state", action="append", type=_states, metavar="STATE", help=f"only in this state; may be given again ({', '.join(STATES)})")
    made.add_argument("--kind", choices=["train", "predict"], help="only of this kind")
    made.add_argument("--model", metavar="NAME", help="only of this model")
    made.add_argument("--workspace", metavar="NAME", help="only with this workspace")
    made.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    connection(made)
    _json(made)
    made = _sub(stages, command, "job", "Show one job: state, resources, figures.", "mlaas job ttH_1", jobs.job, ("job", JOB))
    _json(made)
    made = _sub(stages, command, "logs", "Show the log of a job.", "mlaas logs -f ttH_1", jobs.logs, ("job", JOB))
    made.add_argument("--follow", "-f", action="store_true", help="go on until the job has ended; exits with 0 only if it succeeds")
    made.add_argument("--tail", type=int, metavar="N", help="the last N lines only")
    for name, purpose, run in (
        ("cancel", "Cancel jobs.", jobs.cancel),
        ("delete", "Delete jobs that have ended, with their logs and outputs; models stay.", jobs.delete),
    ):
        made = command(stages, name, purpose, f"mlaas {name} ttH_1", run=run)
        made.add_argument("jobs", metavar="JOB", nargs="+", help=f"{JOB}; several")
        connection(made)
        if name == "cancel":
            _json(made)


def _models(stages: Any, command: Command) -> None:
    inner = _nested(stages, command, "models", "List your models and those shared with you; or do something with one.", "mlaas models", models.models)
    made = _sub(inner, command, "show", "Show a model and its versions.", "mlaas models show ttH", models.describe, ("model", "its name"))
    _json(made)
    made = _sub(inner, command, "download", "Get a model as a bundle.", "mlaas models download ttH@2", models.download, ("model", MODEL))
    made.add_argument("--output", metavar="PATH", help="folder of the bundle (default: the model's name)")
    made.add_argument("--archive", action="store_true", help="leave it packed, as .tar.gz, which TFaaS takes")
    made = _sub(
        inner,
        command,
        "alias",
        "Let an alias stand for a version: ttH@production.",
        "mlaas models alias ttH@2 production",
        models.alias,
        ("model", f"{MODEL}; the latest version unless it names one"),
        ("alias", "the alias"),
    )
    made.add_argument("--remove", action="store_true", help="remove the alias; the version stays")
    made = _sub(
        inner,
        command,
        "share",
        "Let a group see and use a model.",
        "mlaas models share ttH /cms/higgs",
        models.share,
        ("model", "its name"),
        ("group", "a group as tokens name it"),
    )
    made.add_argument("--remove", action="store_true", help="share it no longer")
    made = _sub(inner, command, "report", "Get the report of a training, one HTML page.", "mlaas models report ttH", models.report, ("model", MODEL))
    made.add_argument("--output", metavar="FILE", help="where to (default: <name>-report.html)")
    made = _sub(
        inner,
        command,
        "delete",
        "Delete a version of a model, or the model.",
        "mlaas models delete ttH@1",
        models.delete,
        ("model", MODEL),
    )
    made.add_argument("--all", action="store_true", help="all versions; then MODEL is its name")


def _serve(stages: Any, command: Command) -> None:
    made = command(
        stages,
        "serve",
        "Run the service on this machine: server, worker and inference, each a process.",
        "mlaas serve --data=~/mlaas --port=8080",
        "Needs nothing else: SQLite, jobs as processes, one token for one user, made at the first start.\n"
        "A part that dies is started again. Ctrl-C or SIGTERM stops it: requests finish, jobs go on and are found\n"
        "again at the next start. Everything else is a setting: MLAAS_*, see mlaas/REFERENCE.md.",
        run=serve.serve,
    )
    _overrides(made, ("data", "host", "port", "inference_port", "grpc_port", "auth", "log_format"))
    made.add_argument("--show-token", action="store_true", help="print the sign-in link, with the token, again")
    for name, purpose, names in (
        ("server", "Run the server only: API, published calls, pages.", ("data", "host", "port", "log_format")),
        ("worker", "Run the worker only: it runs the jobs and publishes their models. It has no port.", ("data", "log_format")),
        ("inference", "Run the inference service only.", ("data", "host", "inference_port", "grpc_port", "log_format")),
    ):
        made = command(
            stages, name, purpose, f"mlaas {name} --data=/srv/mlaas", "For containers; mlaas serve starts all three.", run=getattr(serve, name)
        )
        _overrides(made, names)
        if name == "worker":
            made.add_argument(
                "--release", metavar="NAME", help="do not run: queue again the jobs of the worker of this name, whose machine is gone for good"
            )


def _overrides(command: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Flags that stand for settings."""
    meanings: dict[str, dict[str, Any]] = {
        "data": {"metavar": "FOLDER", "help": "folder of the service: workspaces, jobs, models, secrets, database (MLAAS_DATA)"},
        "host": {"metavar": "ADDRESS", "help": "address to listen on (MLAAS_HOST)"},
        "port": {"type": int, "metavar": "PORT", "help": "port of the server; 0 takes a free one (MLAAS_PORT)"},
        "inference_port": {"type": int, "metavar": "PORT", "help": "port of the inference service; 0 takes a free one (MLAAS_INFERENCE_PORT)"},
        "grpc_port": {"type": int, "metavar": "PORT", "help": "port of the inference service for gRPC; 0 leaves it out (MLAAS_GRPC_PORT)"},
        "auth": {"choices": ["token", "oidc"], "help": "one embedded token, or tokens of OpenID providers (MLAAS_AUTH)"},
        "log_format": {"choices": ["json", "text"], "help": "form of the log lines (MLAAS_LOG_FORMAT; serve on a terminal: text)"},
    }
    for name in names:
        command.add_argument(f"--{name.replace('_', '-')}", dest=f"set_{name}", **meanings[name])
