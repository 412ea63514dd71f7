"""Ctrl-C gets through, and lets the cleaning up be done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from mlaas import signals
from mlaas.signals import stopping

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that an interrupt gets lost is what is tested


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(signals, "AGAIN", 0.05)


def ask(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.001)


def work() -> None:
    """Go on for a while; an interrupt must end it."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        time.sleep(0.005)
    pytest.fail("the interrupt got lost")


def stopped(job: Callable[[], None]) -> None:
    """Run a job, which an interrupt must end."""

    def guarded() -> None:
        with stopping():
            job()

    with pytest.raises(KeyboardInterrupt):
        guarded()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_interrupts(number):
    def job() -> None:
        ask(number)
        work()

    stopped(job)


def test_it_gets_through_when_a_library_catches_everything():
    def job() -> None:
        with contextlib.suppress(BaseException):
            ask()
        work()

    stopped(job)


def test_it_gets_through_when_it_falls_where_nothing_can_be_raised():
    class Finalised:
        def __del__(self) -> None:
            ask()

    def job() -> None:
        Finalised()
        work()

    stopped(job)


@pytest.mark.parametrize(("more", "done"), [(1, True), (2, False)])
def test_only_the_third_one_disturbs_the_cleaning_up(more, done):
    cleaned = []

    def job() -> None:
        try:
            ask()
            work()
        finally:
            for _ in range(more):
                ask()
            time.sleep(0.3)
            cleaned.append(True)

    stopped(job)
    assert bool(cleaned) is done


def test_afterwards_all_is_as_before():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped(ask)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    time.sleep(0.2)  # no second one comes


SLOWLY = """
import signal, sys, threading, time
from mlaas import signals

kill, sending = signal.pthread_kill, threading.Event()

def slowly(*arguments):
    sending.set()
    time.sleep(0.3)
    kill(*arguments)

signals.signal.pthread_kill = slowly
signals.AGAIN = 0.05
signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    with signals.stopping():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            sending.wait()
            raise
except KeyboardInterrupt:
    pass
time.sleep(0.6)
print("lives")
"""
"""A program that has been told twice, the second time while it takes its handler away."""


def test_a_signal_that_is_sent_again_does_not_outlive_the_handler():
    done = subprocess.run([sys.executable, "-c", SLOWLY], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "lives\n", "")
