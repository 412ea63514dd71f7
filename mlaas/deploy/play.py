"""Run a playbook of the collection through ansible-runner."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mlaas.deploy.account import Account
from mlaas.deploy.collection import Collection
from mlaas.errors import MissingExtraError, UserError

SECRET = re.compile(r"secret|passw|passphrase|token|eab_key$|(^|_)key$", re.IGNORECASE)
KEPT = 20  # logs
PERIOD = 0.2  # s
GRACE = 3.0  # s for Ansible to end after a signal


@dataclass(frozen=True)
class Play:
    """What is to be run."""

    playbook: str = "site"
    inventory: str = "local"
    check: bool = False
    tags: str = ""
    limit: str = ""
    extra: Sequence[str] = ()  # NAME=VALUE, JSON, or @FILE
    vault_password_file: str = ""
    become_password: str = ""
    flags: Sequence[str] = field(default_factory=tuple)


def run(play: Play, collection: Collection, say: Callable[[str], None], tick: Callable[[Account], None] = lambda _: None) -> Account:
    """Run it. Each finished step is a line for `say`; `tick` is called now and then while something runs. Raises UserError with what failed."""
    try:
        from ansible_runner.interface import init_runner
    except ImportError:
        raise MissingExtraError("ansible-runner", "deploy") from None
    playbook, inventory = collection.playbook(play.playbook), collection.inventory(play.inventory)
    plain, files = extra(play.extra)
    log = _log(play.playbook)
    scratch = Path(tempfile.mkdtemp(prefix="mlaas-deploy-"))
    stop = threading.Event()
    try:
        account = Account(say)
        _write(scratch / "env" / "extravars", json.dumps(plain))
        if play.become_password:
            _write(scratch / "become", play.become_password)
        runner = init_runner(
            private_data_dir=str(scratch),
            playbook=str(playbook),
            inventory=[str(inventory)],
            cmdline=shlex.join(_flags(play, scratch, files)),
            envvars=_environment(collection, scratch),
            settings={"pexpect_timeout": 1},
            host_cwd=str(Path.cwd()),
            quiet=True,
            event_handler=lambda event: _taken(account, log, event),
            cancel_callback=stop.is_set,
        )
        _wait(runner.run, lambda: tick(account), stop, str(scratch))
        account.finish()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if runner.rc != 0:
        raise UserError(f"{account.failure()}\nThe whole log is in {log}")
    return account


def _wait(work: Callable[[], object], tick: Callable[[], None], stop: threading.Event, mark: str) -> None:
    """Let `work` run in a thread; a signal, or what else is raised here, ends it and the processes whose arguments hold `mark` first."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(PERIOD)
            tick()
    except BaseException:
        _end(mark)
        raise
    finally:
        stop.set()
        thread.join()
    if raised:
        raise raised[0]


def _end(mark: str) -> None:
    """End ansible-playbook and all below it; its workers have sessions of their own, which ansible-runner does not end."""
    import psutil  # type: ignore[import-untyped]

    ours = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(mark in word for word in child.cmdline()):
                ours += [child, *child.children(recursive=True)]
    for process in ours:
        with suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(ours, timeout=GRACE)[1]:
        with suppress(psutil.Error):
            process.kill()


def _taken(account: Account, log: Path, event: dict[str, Any]) -> bool:
    if text := logged(event):
        with log.open("a") as file:
            file.write(text + "\n")
    account.event(event)
    return False  # ansible-runner keeps no copy


def logged(event: Mapping[str, Any]) -> str:
    """What an event adds to the log. Ansible censors the result of a task with no_log, and yet shows its error above it: that is left out."""
    text, result = str(event.get("stdout") or ""), (event.get("event_data") or {}).get("res") or {}
    if "censored" not in result and not any("censored" in item for item in result.get("results", []) if isinstance(item, Mapping)):
        return text
    return "\n".join(line for line in text.splitlines() if re.match(r"(fatal|failed|ok|changed|skipping|included|\.\.\.ignoring)\b", line))


def _flags(play: Play, scratch: Path, files: Sequence[str]) -> list[str]:
    flags = [*play.flags, *(part for file in files for part in ("-e", file))]
    if play.check:
        flags.append("--check")
    for name in ("tags", "limit"):
        if value := getattr(play, name):
            flags += [f"--{name}", value]
    if play.vault_password_file:
        path = Path(play.vault_password_file).expanduser().absolute()
        if not path.is_file():
            raise UserError(f"there is no file {play.vault_password_file} (--vault-password-file)")
        flags += ["--vault-password-file", str(path)]
    if play.become_password:
        flags += ["--become-password-file", str(scratch / "become")]
    return flags


def extra(given: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """Variables of the command line: those given plainly, and the files that hold others (`@FILE`, absolute). Raises UserError."""
    plain: dict[str, object] = {}
    files = []
    for text in given:
        if text.startswith("@"):
            path = Path(text[1:]).expanduser().absolute()
            if not path.is_file():
                raise UserError(f"there is no file {text[1:]} (-e)")
            files.append(f"@{path}")
        elif text.lstrip().startswith("{"):
            plain |= _json(text)
        else:
            name, equals, value = text.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise UserError(f"-e takes NAME=VALUE, a JSON object or @FILE, got: {text}")
            plain[name] = value
    for name, found in plain.items():
        if SECRET.search(name) and not name.endswith("_file") and isinstance(found, str) and found and not found.startswith(("/", "~", "./")):
            raise UserError(
                f"{name} on the command line can be read by everybody on this machine: put it into a file, best of ansible-vault (-e @FILE)"
            )
    return plain, files


def _json(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"-e {text[:40]}: this is no JSON: {error}") from None
    return dict(found)


def _environment(collection: Collection, scratch: Path) -> dict[str, str]:
    own = [collection.path(scratch), *filter(None, os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(":"))]
    return {
        "ANSIBLE_COLLECTIONS_PATH": ":".join(dict.fromkeys(own)),
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_PIPELINING": os.environ.get("ANSIBLE_PIPELINING", "true"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
    }


def _log(playbook: str) -> Path:
    """A new file for the whole output, readable by its owner only; old ones go."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "mlaas" / "deploy"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in sorted(folder.glob("*.log"))[: -KEPT + 1]:
        old.unlink(missing_ok=True)
    path = folder / f"{datetime.now():%Y%m%d-%H%M%S.%f}-{os.getpid()}-{playbook}.log"
    _write(path, "")
    return path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
