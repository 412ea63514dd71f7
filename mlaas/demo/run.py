"""`make demo`: the service on toy events, by the commands that a physicist types, each shown before it runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlaas.demo.requests import write_requests
from mlaas.signals import stopping

BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
MARK = ".mlaas-demo"
SHOWN = 12  # lines of a command's output that are shown
NAME, PROCESS = "ttH", "ttH_1"
PORTS = {"port": 8080, "inference-port": 8081}
START = 120.0  # s
SCORE = 1e-4  # most by which the same model's scores may differ between the protocols, which print them with 4 to 7 digits
SUBMISSION = {
    "name": NAME,
    "device": "cpu",
    "memory": "3gb",
    "cpus": "2",
    "files": "files.txt",
    "labels": "labels.txt",
    "model": "model.py",
    "params": "params.json",
    "preproc": "preproc.json",
}


class StepError(Exception):
    """A step of the demo failed; it has said why."""


class EnoughError(Exception):
    """Ctrl-C after everything was shown: the demo ends well."""


class Demo:
    """A folder, a running service, and the shell that the commands are for."""

    def __init__(self, folder: Path, record: dict[str, str]) -> None:
        self.folder, self.server, self.inference = folder, record["server"], record["inference"]

    def step(self, title: str, line: str, *, shown: int = SHOWN) -> str:
        """Show a line of shell, run it in the demo's folder, show the head of its output, and return that. Raises StepError."""
        print(f"\n{BOLD}# {title}{PLAIN}\n$ {line}", flush=True)
        done = subprocess.run(["bash", "-ec", line], cwd=self.folder, env=_environment(self.folder), stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.splitlines()
        print("\n".join([*(text[:200] for text in lines[:shown]), *([f"... ({len(lines) - shown} more lines)"] if len(lines) > shown else [])]))
        if done.returncode:
            raise StepError(f"this command ended with exit code {done.returncode}")
        return done.stdout

    def follow(self, title: str, line: str) -> None:
        """Show a line of shell and run it; its output comes as it is written. Raises StepError."""
        print(f"\n{BOLD}# {title}{PLAIN}\n$ {line}", flush=True)
        if code := subprocess.run(["bash", "-ec", line], cwd=self.folder, env=_environment(self.folder), check=False).returncode:
            raise StepError(f"this command ended with exit code {code}")


def _environment(folder: Path) -> dict[str, str]:
    """What the commands see: the `mlaas` of this interpreter first in PATH, the service's data folder, curl that says why it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "MLAAS_DATA": str(folder / "data")}


def run(folder: Path, events: int, once: bool) -> None:
    """Run the demo in a folder that it empties first (of a former demo only), and leave the service running until Ctrl-C unless `once`."""
    if shutil.which("curl") is None:
        raise StepError("the demo shows the published calls with curl, which is missing; install it (Debian and Ubuntu: apt-get install curl)")
    began = time.monotonic()
    folder = folder.absolute()
    _clear(folder)
    with _service(folder) as record:
        demo = Demo(folder, record)
        _upload(demo, events)
        _train(demo)
        _predict(demo)
        _summary(demo, time.monotonic() - began)
        if not once:
            print("\nThe service goes on until you press Ctrl-C.", flush=True)
            try:
                signal.pause()
            except KeyboardInterrupt as error:
                raise EnoughError from error


def _upload(demo: Demo, events: int) -> None:
    demo.step("a folder with toy ttH events in ROOT files, and a workflow for them", f"mlaas --quiet generate {NAME} --events={events}")
    demo.step(
        "the token, in a file that only you can read, for curl: so it is in no list of processes",
        """(umask 077; printf 'Authorization: Bearer %s\\n' "$(cat data/secrets/token)" > token.header)""",
    )
    demo.step(
        "upload the folder, with the published calls of the MLaaS4HEP server",
        f"tar -czf {NAME}.tar.gz {NAME}\n  " + _curl(demo.server, f"/upload?name={NAME}", f"-F file=@{NAME}.tar.gz"),
    )


def _train(demo: Demo) -> None:
    (demo.folder / "submit.json").write_text(json.dumps(SUBMISSION, indent=1) + "\n")
    demo.step("what to train: the published submission", "cat submit.json", shown=20)
    answer = demo.step("submit it", _curl(demo.server, "/submit", "-H 'Content-Type: application/json' -d @submit.json"))
    if json.loads(answer)["process_name"] != PROCESS:
        raise StepError(f"the job is not called {PROCESS}")
    demo.step("its status", _curl(demo.server, f"/status_docker?process_name={PROCESS}"))
    demo.follow("follow it to its end, with our own command", f"mlaas logs --follow {PROCESS}")
    download = _curl(demo.server, f"/model?process_name={PROCESS}", f"-o {PROCESS}.tar.gz")
    unpack = f"mkdir {PROCESS} && tar -xzf {PROCESS}.tar.gz -C {PROCESS} && ls {PROCESS}"
    demo.step("download the model, in the form that TFaaS takes", f"{download}\n  {unpack}", shown=20)


def _predict(demo: Demo) -> None:
    write_requests(demo.folder, demo.folder / PROCESS, PROCESS)
    body = "-H 'Content-Type: application/json' -d @"
    row = json.loads(demo.step("predict as with TFaaS: one event, a row of normalised values", _curl(demo.inference, "/json", f"{body}row.json")))
    tensor = json.loads(
        demo.step("predict by the Open Inference Protocol: three events", _curl(demo.inference, f"/v2/models/{PROCESS}/infer", f"{body}tensor.json"))
    )
    raw = demo.step("predict raw events by branch name: the same three", f"mlaas predict {PROCESS} --events=events.json")
    _agree([row[0]], tensor["outputs"][0]["data"], [float(line) for line in raw.split()])


def _agree(row: list[float], tensor: list[float], raw: list[float]) -> None:
    """Raise StepError unless all ways give the same scores."""
    pairs = [*zip(row, tensor, strict=False), *zip(raw, tensor, strict=True)]
    if any(abs(one - other) > SCORE for one, other in pairs):
        raise StepError(f"the scores differ: {row}, {tensor}, {raw}")
    print("(the three ways give the same scores)")


def _curl(server: str, path: str, rest: str = "") -> str:
    url = shlex.quote(f"{server}{path}") if "?" in path else f"{server}{path}"
    return " ".join(part for part in ("curl -sSf -H @token.header", rest, url) if part)


@contextmanager
def _service(folder: Path) -> Iterator[dict[str, str]]:
    """The service, running; gives what it notes of itself."""
    flags = ["serve", "--data=data", *(f"--{name}={_free(port)}" for name, port in PORTS.items()), "--grpc-port=0"]
    print(f"\n{BOLD}# the service: server, jobs, inference{PLAIN}\n$ mlaas {shlex.join(flags)} &", flush=True)
    environment = {"MLAAS_LOG_LEVEL": "warning", "MLAAS_LOG_FORMAT": "text", "MLAAS_INFERENCE_WORKERS": "1"} | _environment(folder)
    # the program's own interpreter and module: the demo must not depend on PATH
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlaas.cli", *flags],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        record = _ready(process, folder)
        print(f"pages and API {record['server']}, inference {record['inference']}", flush=True)
        yield record
    finally:
        process.terminate()
        process.wait()


def _ready(process: subprocess.Popen[bytes], folder: Path) -> dict[str, str]:
    record, until = folder / "data" / "run" / "serve.json", time.monotonic() + START
    while process.poll() is None and time.monotonic() < until:
        if record.exists():
            found: dict[str, str] = json.loads(record.read_text())
            return found
        time.sleep(0.1)
    raise StepError(f"the service did not start:\n{(folder / 'service.log').read_text()}")


def _free(port: int) -> int:
    """The port, or 0 (any) where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    return 0


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise StepError(f"{folder} is not the folder of a former demo; name a new one")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def _summary(demo: Demo, seconds: float) -> None:
    bundle = demo.folder / PROCESS
    test: dict[str, Any] = json.loads((bundle / "metrics.json").read_text())["metrics"]["test"]
    epochs = [json.loads(line) for line in (bundle / "metrics.jsonl").read_text().splitlines()]
    rates = [line["events_per_s"] for line in epochs if line.get("kind") == "epoch"]
    token = (demo.folder / "data" / "secrets" / "token").read_text().strip()
    print(f"\n{BOLD}# Done after {seconds:.0f} s{PLAIN}")
    print(
        f"  AUC        {test['auc']:.4f} +- {test['auc_error']:.4f} on {test['events']:,} events that were held out (accuracy {test['accuracy']:.3f})"
    )
    print(f"  training   {max(rates):,.0f} events/s in the fastest epoch")
    print(f"  bundle     {bundle}\n  report     {bundle / 'report' / 'index.html'}")
    print(f"  web page   {demo.server}{f'/?token={token}' if sys.stdout.isatty() else ''}")
    print(f"  commands   export MLAAS_DATA={demo.folder / 'data'}; then {Path(sys.executable).with_name('mlaas')} jobs (models, submit, ...)")


def main() -> int:
    """Run the demo from the command line; 1 when a step failed."""
    parser = ArgumentParser(prog="python -m mlaas.demo.run", description="Run the demo in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--once", action="store_true", help="stop the service at the end; so it is without a terminal, too")
    options = parser.parse_args()
    try:
        with stopping():
            run(options.folder, options.events, options.once or not sys.stdin.isatty())
    except StepError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except EnoughError:
        return 0
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
