"""Docker engines that tests start on a folder of their own; nothing of the machine's own engine is touched."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.programs import find_program

START_TIME = 60.0  # s
STOP_TIME = 60.0  # s
NO_NETWORK = ("--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")  # changes nothing of the machine's network


@dataclass
class Daemon:
    """dockerd whose folder holds its socket and log, and, unless `data` names another one, its images and containers."""

    folder: Path
    data: Path | None = None
    network: tuple[str, ...] = NO_NETWORK
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        """Where it takes connections."""
        return self.folder / "docker.sock"

    @property
    def url(self) -> str:
        """What clients take as DOCKER_HOST."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = ["--data-root", self.data or self.folder / "data", "--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(find_program("dockerd")), "--host", self.url, *options, *self.network],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_TIME
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
                probe.connect(str(self.socket))
                return
            time.sleep(0.1)
        raise AssertionError(f"dockerd did not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def stop(self) -> None:
        """Stop it; it ends its containers."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIME)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def remove(self) -> None:
        """Stop it and remove its folder and what an engine that had to be killed leaves behind."""
        self.stop()
        folders = [str(folder) for folder in (self.folder, self.data) if folder]
        for process in psutil.process_iter():  # its helpers name the folder
            with suppress(psutil.Error):
                if any(folder in word for word in process.cmdline() for folder in folders):
                    process.kill()
        for folder in folders:
            _unmount_below(folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def _unmount_below(folder: str) -> None:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)
