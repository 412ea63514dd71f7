"""What happens in a play, told from the events of ansible-runner: a line for each step, and a sentence for what failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROLE = re.compile(r"^(?:\w+\.)*")
PREFIX = re.compile(r"^(?:(?:Task|Action|Module|Loop) (?:failed|result failed)[^:]{0,60}: )+")
FAILED = {"runner_on_failed", "runner_on_async_failed", "runner_item_on_failed"}
SHOWN = {"runner_on_ok", "runner_item_on_ok"}
VALIDATION = "Validating arguments against arg spec"  # a task that Ansible adds before each role
TAIL = 5  # lines of a command's error


@dataclass
class Step:
    """Tasks of one file of a role, or of a play outside of roles."""

    name: str
    began: float
    task: str = ""
    changed: int = 0


@dataclass(frozen=True)
class Fault:
    """A task that failed on a machine."""

    host: str
    step: str
    task: str
    text: str


@dataclass
class Account:
    """Listens to events; `say` is given each finished step's line."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    step: Step | None = None
    faults: list[Fault] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # what Ansible says before or outside of tasks
    stats: dict[str, Any] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)  # per machine, what the playbook has for its user (debug tasks)

    def event(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        kind, data = str(event.get("event", "")), event.get("event_data") or {}
        if kind in {"playbook_on_task_start", "playbook_on_handler_task_start"}:
            self._task(data)
        elif kind == "runner_on_ok" and (data.get("res") or {}).get("changed") and self.step:
            self.step.changed += 1
        elif kind in SHOWN and str(data.get("task_action", "")).rpartition(".")[2] == "debug":
            result = data.get("res") or {}
            if "results" not in result and (text := _text(result.get("msg", "")).strip()):  # a whole loop says only that it has ended
                self.said.setdefault(str(data.get("host", "")), []).append(text)
        elif kind == "runner_on_unreachable" or (kind in FAILED and not data.get("ignore_errors")):
            self._fault(data)
        elif kind == "playbook_on_stats":
            self.finish()
            self.stats = dict(data)
        elif kind in {"verbose", "error"}:
            self.errors += re.findall(r"^\[?ERROR\]?!?:? *(.+)$", str(event.get("stdout", "")), re.MULTILINE)

    def _task(self, data: Mapping[str, Any]) -> None:
        name = step_name(data)
        if self.step is None or (self.step.name != name and not str(data.get("task", "")).startswith(VALIDATION)):
            self.finish()
            self.step = Step(name, self.clock())
        self.step.task = str(data.get("task", ""))

    def _fault(self, data: Mapping[str, Any]) -> None:
        text = sentence(data.get("res") or {})
        host = str(data.get("host", ""))
        # the whole loop repeats what its items said
        if text and not any(fault.host == host and fault.text == text for fault in self.faults):
            self.faults.append(Fault(host, step_name(data), str(data.get("task", "")), text))

    def finish(self) -> None:
        """End the step under way."""
        if self.step is not None:
            changed = f"{self.step.changed} changed" if self.step.changed else ""
            self.say(f"{self.clock() - self.step.began:7.1f} s  {self.step.name:<28}{changed}".rstrip())
            self.step = None

    def failure(self) -> str:
        """What failed in the end, a line per machine; what a play rescued is left out."""
        bad = {host for kind in ("failures", "dark") for host, number in self.stats.get(kind, {}).items() if number}
        last = {fault.host: fault for fault in self.faults if fault.host in bad or not self.stats}
        if last:
            return "\n".join(f"{fault.host}, {fault.step} ({fault.task}): {fault.text}" for fault in last.values())
        return self.errors[0] if self.errors else "Ansible failed"

    def summary(self) -> str:
        """How many tasks changed something, per machine."""
        hosts = sorted(self.stats.get("processed", {}))
        rows = [f"{host}: {self._number('ok', host)} ok, {self._number('changed', host)} changed" for host in hosts]
        return "\n".join(rows) or "no machine in the inventory was meant"

    def words(self) -> str:
        """What the playbook has for its user, each machine's under its name where there are several."""
        several = len(self.said) > 1
        return "\n".join(f"{host}: {text}" if several else text for host, texts in self.said.items() for text in texts)

    def _number(self, kind: str, host: str) -> int:
        return int(self.stats.get(kind, {}).get(host, 0))


def step_name(data: Mapping[str, Any]) -> str:
    """`role: file of tasks`, or the play's name."""
    role, path = ROLE.sub("", str(data.get("role") or "")), str(data.get("task_path") or "")
    if not role:
        return str(data.get("play", ""))
    if str(data.get("task", "")).startswith(VALIDATION):
        return role
    file = Path(path.rsplit(":", 1)[0])
    part = "handlers" if file.parent.name == "handlers" else file.stem
    return f"{role}: {part}".removesuffix(": main").removesuffix(": ")


def sentence(result: Mapping[str, Any]) -> str:
    """What a task says of its failure, for people."""
    if "censored" in result:
        return "what went wrong is hidden, for it may hold a secret"
    if failed := [item for item in result.get("results", []) if isinstance(item, Mapping) and item.get("failed")]:
        return "; ".join(dict.fromkeys(filter(None, map(sentence, failed))))
    if errors := result.get("argument_errors"):
        return "; ".join(map(str, errors))
    text = PREFIX.sub("", _text(result.get("msg", ""))).strip()
    if not text or text.startswith(("non-zero return code", "MODULE FAILURE", "Module result deserialization failed")):
        said = next((told for key in ("stderr", "module_stderr", "stdout", "module_stdout") if (told := _text(result.get(key, "")).strip())), "")
        return "\n".join(said.splitlines()[-TAIL:]) or text
    return text


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
