"""Several processes on one port: started, replaced when they die, ended together; none outlives the process that started it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from multiprocessing.connection import wait

import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from mlaas.web import metrics

logger = logging.getLogger(__name__)
STARTUP_FAILURE = 3
MARGIN = 5.0  # s beyond the time that running requests get, before a process is killed
PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let the kernel send this process SIGTERM when its parent dies, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            raise SystemExit(0)


class _Worker(Process):
    """One process, with a server of the given class."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], kind: type[uvicorn.Server]) -> None:
        super().__init__(config, sockets)
        self._kind = kind

    @property
    def server(self) -> uvicorn.Server:
        """The server, made where it runs."""
        if self._server is None:
            self._server = self._kind(self.config)
        return self._server

    def is_alive(self, timeout: float = 5) -> bool:
        """Whether the process runs and answers in time; one that dies instead of answering is noticed at once."""
        if not self.process.is_alive():
            return False
        try:
            self.parent_conn.send(b"ping")
            if self.parent_conn in wait([self.parent_conn, self.process.sentinel], timeout):
                self.parent_conn.recv()
                return True
        except (OSError, EOFError):
            pass
        return False


class Workers(Multiprocess):
    """Keeps `config.workers` processes; SIGTERM and SIGINT end them, SIGHUP replaces them one by one (a new certificate).

    failed: a process could not start serving; another would fail the same way, so all were ended.
    """

    handle_ttin = handle_ttou = None  # type: ignore[assignment]  # their number is a setting

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], kind: type[uvicorn.Server], shutdown_timeout: float) -> None:
        super().__init__(config, sockets)
        self._kind = kind
        self._shutdown_timeout = shutdown_timeout
        self.failed = False

    def _started(self) -> Process:
        worker = _Worker(self.config, self.sockets, self._kind)
        worker.start()
        return worker

    def init_processes(self) -> None:
        """Start them all."""
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace those that died or hang."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if worker.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            worker.kill()
            worker.process.join()
            metrics.ended(worker.pid or 0)
            if worker.exitcode == STARTUP_FAILURE:
                self.failed = True
                self.should_exit.set()
                return
            logger.error("process %s died (%s); another takes its place", worker.pid, worker.exitcode)
            self.processes[place] = self._started()

    def restart_all(self) -> None:
        """Replace each by a new one that serves before the old one goes."""
        for place, old in enumerate(self.processes):
            new = self._started()
            if not new.wait_until_ready(self.config.timeout_worker_healthcheck, self.should_exit):
                new.kill()
                new.process.join()
                logger.error("a new process did not get ready; the old ones go on")
                return
            self.processes[place] = new
            old.terminate()
            self._join(old, time.monotonic() + self._shutdown_timeout + MARGIN)

    def join_all(self) -> None:
        """Wait for all; kill those that take too long."""
        until = time.monotonic() + self._shutdown_timeout + MARGIN
        for worker in self.processes:
            self._join(worker, until)

    def _join(self, worker: Process, until: float) -> None:
        worker.process.join(max(0.1, until - time.monotonic()))
        if worker.exitcode is None:
            logger.error("process %s did not end in time", worker.pid)
            worker.process.kill()
            worker.process.join()
        metrics.ended(worker.pid or 0)
