"""All tests, in two lanes side by side: `python -m tests.lanes [LANE...]`; ends with what failed and what could not run here.

Each suite is a process of its own: the frameworks and ROOT, which the first one loads, do not bear other libraries beside them; Ansible, among them,
changes Python's own functions.
One lane computes, the other mostly waits.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build" / "tests"  # the whole output of each suite
LANES = {
    "service": {"unit": ["tests/unit", "tests/integration"], "service": ["tests/service", "tests/tls", "tests/doctor"]},
    "machines": {"deployment": ["tests/deployment"], "xrootd": ["tests/xrootd"], "roles": ["tests/roles"], "gateway": ["tests/gateway"]},
}
PERIOD = 30.0  # s between lines of progress
LAST = "== summary"


class Suite:
    """One run of pytest, its output in a file."""

    def __init__(self, name: str, folders: list[str]) -> None:
        self.name = name
        self.folders = [folder for folder in folders if (ROOT / folder).exists()]
        self.output = OUTPUT / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.status: int | None = None
        self.began = self.ended = 0.0

    def run(self) -> None:
        """Run it to its end."""
        self.began = time.monotonic()
        with self.output.open("wb") as log:
            command = [sys.executable, "-u", "-m", "pytest", "--color=no", "-v", "-rfE", *self.folders]
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            self.status = self.process.wait()
        self.ended = time.monotonic()

    def progress(self) -> str:
        """How far it is, in a few words."""
        if not self.began:
            return f"{self.name}: waits"
        last = re.findall(rb"\[ *(\d+)%\]", self._end())
        if self.status is None:
            return f"{self.name}: {last[-1].decode() if last else 0} % after {_minutes(time.monotonic() - self.began)}"
        return f"{self.name}: {'passed' if self.status == 0 else 'FAILED'} in {_minutes(self.ended - self.began)}"

    def _end(self) -> bytes:
        with self.output.open("rb") as log:
            log.seek(max(0, self.output.stat().st_size - 20_000))
            return log.read()

    def result(self) -> str:
        """What failed, with its traceback, what did not run, and the last line."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        found = re.search(r"^=+ (ERRORS|FAILURES) =+$|^=+ not run on this machine =+$|^=+ .* in [\d.]+s.* =+$", text, re.MULTILINE)
        return text[found.start() :] if found else text[-5000:]

    def stop(self) -> None:
        """End it and what it started, as Ctrl-C would."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _lane(suites: list[Suite], stopped: threading.Event) -> None:
    for suite in suites:
        if not stopped.is_set():
            suite.run()


def run(names: list[str]) -> int:
    """Run the named lanes side by side; returns the exit status."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    lanes = [[suite for suite in (Suite(name, folders) for name, folders in LANES[lane].items()) if suite.folders] for lane in names]
    suites = [suite for lane in lanes for suite in lane]
    stopped = threading.Event()
    threads = [threading.Thread(target=_lane, args=(lane, stopped)) for lane in lanes]
    for thread in threads:
        thread.start()
    try:
        next_line = time.monotonic() + PERIOD
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.5)
            if time.monotonic() > next_line:
                print("   ", "; ".join(suite.progress() for suite in suites), flush=True)
                next_line += PERIOD
    except KeyboardInterrupt:
        stopped.set()
        for suite in suites:
            suite.stop()
        for thread in threads:
            thread.join()
        return 130
    for suite in suites:
        print(f"\n== {suite.name}: the whole output is in {suite.output.relative_to(ROOT)}\n{suite.result()}", flush=True)
    print(LAST)
    for suite in suites:
        print("   ", suite.progress())
    return int(any(suite.status != 0 for suite in suites))


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in LANES]
    if unknown:
        sys.exit(f"no lane {unknown[0]}; there are {', '.join(LANES)}")
    sys.exit(run(sys.argv[1:] or list(LANES)))
