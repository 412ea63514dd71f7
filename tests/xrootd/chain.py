"""Proxy and renewer as processes of this machine, run as in the image; and readers that hold no credential."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.collection import ROOT
from tests.support.origin import end, listening, start
from tests.xrootd.render import Rendered

IMAGE = ROOT / "images" / "xrootd"
USER = ["setpriv", "--reuid=10003", "--regid=10003", "--clear-groups"]
# short times for servers that do not answer
READER = {
    "XRD_CONNECTIONWINDOW": "3",
    "XRD_CONNECTIONRETRY": "4",
    "XRD_REQUESTTIMEOUT": "20",
    "XRD_STREAMERRORWINDOW": "2",
    "XRD_TIMEOUTRESOLUTION": "1",
}
READ = """
import sys, uproot
for url in sys.argv[1:]:
    print(float(uproot.open({url: "events"}, timeout=20)["x"].array().to_numpy().sum()), flush=True)
"""


def image_environment(rendered: Rendered) -> dict[str, str]:
    """The variables that the image sets, with the places of this machine."""
    lines = re.search(r"^ENV (.*?[^\\])$", (IMAGE / "Dockerfile").read_text(), re.M | re.S)
    assert lines
    found = dict(word.split("=", 1) for word in shlex.split(lines[1].replace("\\\n", " ")))
    places = {"/etc/mlaas/xrootd": rendered.config, "/etc/grid-security": rendered.config}
    for seen, here in places.items():
        found = {name: re.sub(f"^{seen}(?=/)", str(here), value) for name, value in found.items()}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | found


class Proxy:
    """A proxy with the configuration of the role."""

    def __init__(self, rendered: Rendered, port: int) -> None:
        self.rendered, self.port = rendered, port
        self.url = f"root://localhost:{port}"
        self.log = rendered.folder / "proxy.log"

    def __enter__(self) -> Proxy:
        config = self.rendered.at(self.port)
        run = self.rendered.folder / "run"
        run.mkdir(exist_ok=True)
        shutil.chown(run, 10003, 10003)
        command = credential(self.rendered, "proxy", str(config))
        self.process = start(command, self.log, image_environment(self.rendered), cwd=str(run))
        listening(self.process, self.port, self.log)
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def through(self, url: str) -> str:
        """The URL of a file of another server behind this proxy."""
        return f"{self.url}//{url}"


def credential(rendered: Rendered, *words: str) -> list[str]:
    """A command of the image's program."""
    program = rendered.folder / "mlaas-credential"  # where the proxy's user may read it
    if not program.exists():
        shutil.copy(IMAGE / "bin" / "mlaas-credential", program)
    return [*USER, sys.executable if os.access(sys.executable, os.X_OK) else "python3", str(program), "--config", str(rendered.settings), *words]


def run(rendered: Rendered, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the image's program to its end; its output and errors are together."""
    return subprocess.run(
        credential(rendered, *words),
        env=image_environment(rendered),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )


class Renewer:
    """The program that renews, while the block runs."""

    def __init__(self, rendered: Rendered) -> None:
        self.rendered = rendered
        self.log = rendered.folder / "renewer.log"

    def __enter__(self) -> Renewer:
        begun = self.log.read_text().count("keeps ") if self.log.exists() else 0
        self.process = start(credential(self.rendered, "renew"), self.log, image_environment(self.rendered))
        self.wait('"keeps ', begun + 1)
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def hangup(self) -> None:
        """Have it renew at once."""
        self.process.send_signal(signal.SIGHUP)

    def wait(self, text: str, number: int = 1, seconds: float = 40) -> None:
        """Wait until its log holds a text so often."""
        until = time.monotonic() + seconds
        while (found := self.log.read_text().count(text)) < number:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, f"{text!r} {found} times, not {number}:\n{self.log.read_text()}"
            time.sleep(0.1)


def reader(place: Path) -> dict[str, str]:
    """The environment of a job: no credential, and no folder where one could be found."""
    home = place / "nowhere"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("X509", "BEARER", "XRD", "MLAAS"))}
    return kept | READER | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "X509_USER_PROXY": str(home / "none")}


def read(place: Path, *urls: str) -> list[float]:
    """The sums of the branch x of these files, read by uproot in a process of its own. Raises AssertionError with what it says."""
    command = [sys.executable, "-c", READ, *urls]
    done = subprocess.run(command, env=reader(place), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(line) for line in done.stdout.split()]


def shell(place: Path, proxy: Proxy, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of xrdfs at the proxy."""
    command = ["xrdfs", f"localhost:{proxy.port}", *words]
    return subprocess.run(command, env=reader(place), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)


@contextmanager
def watched(*secrets: str) -> Iterator[list[str]]:
    """Look for secrets in the arguments and environments of all processes while the block runs; yields where they were found."""
    import threading

    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for folder in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        content = (folder / name).read_bytes()
                    except OSError:
                        continue
                    if folder.name != str(os.getpid()) and any(secret.encode() in content for secret in secrets):
                        found.append(f"{folder.name}/{name}: {content[:200]!r}")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
