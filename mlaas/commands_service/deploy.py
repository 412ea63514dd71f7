"""mlaas doctor, deploy."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
import textwrap
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict

from mlaas.commands_service.text import note, show, table
from mlaas.console import progress
from mlaas.deploy import collection, doctor, play, ssh
from mlaas.deploy.account import Account
from mlaas.deploy.findings import Finding
from mlaas.deploy.wanted import Wanted, redirector
from mlaas.errors import UserError
from mlaas.settings import settings

SILENCE = 30.0  # s after which a step that lasts says so where there is no terminal
WIDTH = 100


def examine(options: Namespace) -> None:
    """Look whether a machine is fit."""
    flags = ssh.Login.parse(options.host, user=options.user, port=options.port, key=options.key, jump=options.jump)
    targets = {address: address for address in options.reach or []}
    if options.hub:
        targets["images"] = f"https://{options.hub}/v2/"
    if options.acme:
        targets["acme"] = options.acme
    if options.redirector and not (place := redirector(options.redirector)):
        raise UserError(f"--redirector names no XRootD server (root://host:port), got: {options.redirector}")
    if options.redirector:
        targets[f"redirector:{place}"] = place
    more = Wanted(issuer=options.issuer or "", targets=targets, data=options.data or "")
    shown = progress(settings().progress and not options.quiet and not options.json)
    findings = doctor.examine(flags, source=options.inventory or "", vault=options.vault_password_file or "", more=more, progress=shown)
    if options.json:
        show({"host": options.host, "fit": doctor.fit(findings), "findings": [asdict(finding) for finding in findings]})
    else:
        _table(findings)
    if not doctor.fit(findings):
        raise SystemExit(1)


def _table(findings: Sequence[Finding]) -> None:
    """What was found, then what to do, the bad first."""
    table(("", "what", "found"), [(finding.verdict, finding.name, finding.text) for finding in findings])
    cures = sorted((finding for finding in findings if finding.cure), key=lambda finding: finding.verdict != "bad")
    for number, finding in enumerate(cures):
        if number == 0:
            print("\nwhat to do")
        print(textwrap.fill(f"{finding.verdict}: {finding.name}: {finding.cure}", shutil.get_terminal_size().columns, subsequent_indent="  "))


def deploy(options: Namespace) -> None:
    """Run a playbook."""
    found = collection.find()
    password = ""
    if options.ask_become_pass:
        password = getpass.getpass("password for sudo on the machines: ")
    asked = play.Play(
        playbook=options.playbook,
        inventory=options.inventory,
        check=options.check,
        tags=options.tags or "",
        limit=options.limit or "",
        extra=options.extra or (),
        vault_password_file=options.vault_password_file or "",
        become_password=password,
    )
    began = time.monotonic()
    lines = _Lines(quiet=options.quiet)
    try:
        account = play.run(asked, found, lines.say, lines.tick)
    finally:
        lines.clear()
    print(account.summary())
    if words := account.words():
        print(words)
    note(f"{options.playbook} {'could be run' if options.check else 'done'} in {time.monotonic() - began:.0f} s")


class _Lines:
    """A line for each step; on a terminal the task under way below, elsewhere a line now and then when a step lasts."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._live = quiet, sys.stderr.isatty() and not quiet
        self._told = time.monotonic()

    def say(self, text: str) -> None:
        """Tell a finished step."""
        self.clear()
        self._told = time.monotonic()
        if not self._quiet:
            note(text)

    def tick(self, account: Account) -> None:
        """Tell what is under way."""
        step = account.step
        if step is None or self._quiet:
            return
        seconds = account.clock() - step.began
        if self._live:
            edge = min(os.get_terminal_size(2).columns - 1, WIDTH)
            sys.stderr.write(f"\r\033[K{f'{seconds:7.1f} s  {step.name}: {step.task}'[:edge]}")
            sys.stderr.flush()
        elif time.monotonic() - self._told > SILENCE:
            self._told = time.monotonic()
            note(f"{seconds:7.1f} s  {step.name}: {step.task} ...")

    def clear(self) -> None:
        """Remove the line of what is under way."""
        if self._live:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
