"""mlaas login, logout, whoami."""

from __future__ import annotations

import getpass
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas.commands_service.session import connected
from mlaas.commands_service.text import clock, figure, note, pairs, show
from mlaas.errors import UserError
from mlaas.sizes import write_size

if TYPE_CHECKING:
    from mlaas.client import Client, Me, Service
    from mlaas.client.logins import Login
    from mlaas.client.openid import Code


def login(options: Namespace) -> None:
    """Sign in at a server, and keep that."""
    from mlaas.client import logins

    with connected(Namespace(**{**vars(options), "token_file": None})) as client:  # standard input can be read once
        service = client.service()
        found = _by_token(client, options) if options.token_file or service.auth == "token" else _by_device(client, service, options)
        me = _checked(client, found, options)
    logins.put(found)
    print(f"signed in at {found.server} as {me.name or me.tenant}")


def _by_token(client: Client, options: Namespace) -> Login:
    """A token from a file, from standard input, typed in, or, for the service of this machine, from its data folder."""
    from mlaas.bearer import checked
    from mlaas.client.local import embedded_token
    from mlaas.client.logins import Login
    from mlaas.client.tokens import read_token

    if options.token_file:
        token = read_token(options.token_file)
    elif not (token := embedded_token(client.server, client.settings)):
        if not sys.stdin.isatty():
            raise UserError(f"the token of {client.server} is needed: give --token-file=FILE, or --token-file=- for standard input")
        token = checked(getpass.getpass("token (it is not shown): ").strip(), "what you typed")
    return Login(server=str(client.server), access_token=token, ca_file=_absolute(options.ca_file))


def _by_device(client: Client, service: Service, options: Namespace) -> Login:
    from mlaas.client.logins import Login
    from mlaas.client.openid import Provider

    begun = Login(
        server=str(client.server),
        access_token="",
        client_id=service.client_id,
        scope=service.scope,
        audience=service.audience,
        ca_file=_absolute(options.ca_file or client.settings.ca_file),
    )
    provider = Provider(_issuer(service, options.issuer), ca_file=Path(begun.ca_file) if begun.ca_file else None)
    try:
        return provider.device_login(begun, _tell)
    finally:
        provider.close()


def _issuer(service: Service, wanted: str | None) -> str:
    if wanted and wanted in service.issuers:
        return wanted
    if len(service.issuers) == 1 and not wanted:
        return service.issuers[0]
    raise UserError(f"issuer: choose one with --issuer: {', '.join(service.issuers) or 'this service names none'}")


def _tell(code: Code) -> None:
    print(f"Open in a browser, on any device:\n\n    {code.whole or code.address}\n")
    print(f"and check that it shows the code {code.code}" if code.whole else f"and enter the code {code.code}", flush=True)
    note(f"(good for {clock(code.seconds)}; waiting for you to finish there)")


def _checked(client: Client, found: Login, options: Namespace) -> Me:
    """Who it is, with the new token."""
    from mlaas.client import Client

    with Client(
        str(client.server), token=found.access_token, ca_file=found.ca_file or None, insecure=options.insecure, options=client.settings
    ) as signed_in:
        return signed_in.me()


def _absolute(path: Path | str | None) -> str:
    return str(Path(path).absolute()) if path else ""


def logout(options: Namespace) -> None:
    """Forget a sign-in, or all; the provider is told to end it."""
    from mlaas.client import logins
    from mlaas.client.address import server_address

    server = str(server_address(options.server, insecure=True)) if options.server else logins.current()
    known = [kept.server for kept in logins.every()] if options.all else [server] if server else []
    gone = [found for name in known if (found := logins.drop(name))]
    for found in gone:
        _revoked(found)
        print(f"signed out at {found.server}")
    if not gone:
        note(f"not signed in{f' at {server}' if server else ''}")


def _revoked(found: Login) -> None:
    from mlaas.client.openid import Provider

    if not found.issuer:
        return
    with suppress(UserError):
        provider = Provider(found.issuer, ca_file=Path(found.ca_file) if found.ca_file else None)
        try:
            provider.revoke(found)
        finally:
            provider.close()


def whoami(options: Namespace) -> None:
    """Show who one is for the service, what one has and may have."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        me = client.me()
        if options.json:
            show(plain(me))
            return
        used, most = me.usage, me.limits
        pairs(
            [
                ("server", str(client.server)),
                ("user", me.name or me.tenant),
                ("tenant", me.tenant),
                ("issuer", me.issuer),
                ("groups", ", ".join(me.groups)),
                ("roles", ", ".join(me.roles)),
                ("jobs", f"{used.running} running (of {most.jobs} at a time), {used.queued} queued"),
                ("cpus", _share(figure(used.cpus), most.cpus and figure(most.cpus))),
                ("memory", _share(write_size(used.memory), most.memory and write_size(most.memory))),
                ("disk", _share(write_size(used.disk), most.disk and write_size(most.disk))),
                ("used so far", f"{clock(used.cpu_seconds)} of CPU"),
            ]
        )


def _share(used: str, most: str | float | None) -> str:
    return f"{used} of {most}" if most else used
