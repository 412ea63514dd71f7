"""Another machine by SSH. Its key must be known, or confirmed by the user; no secret is an argument or kept."""

from __future__ import annotations

import base64
import getpass
import hashlib
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlaas.deploy.hosts import Answer, HostError
from mlaas.errors import MissingExtraError

SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
CONNECT_TIME = 10.0  # s


@dataclass(frozen=True)
class Login:
    """How to sign in at a machine; what is empty is taken from ~/.ssh/config, else OpenSSH's default."""

    host: str
    user: str = ""
    port: int = 0
    key: str = ""
    jump: str = ""

    @classmethod
    def parse(cls, text: str, **others: Any) -> Login:
        """A login from `[user@]host[:port]`; `others` that are set win."""
        user, _, place = text.rpartition("@")
        host, colon, port = place.rpartition(":")
        if not colon or not port.isdigit() or (":" in host.strip("[]") and not place.startswith("[")):
            host, port = place, ""
        if not host:
            raise HostError(f"{text!r} names no machine: [user@]host[:port]")
        made = cls(host.strip("[]"), user, int(port or 0))
        return replace(made, **{name: value for name, value in others.items() if value})


class Remote:
    """A machine behind an SSH connection."""

    def __init__(self, name: str, client: Any, before: list[Any]) -> None:
        self.name = name
        self._client, self._before = client, before

    def run(self, script: str, timeout: float) -> Answer:
        """See `mlaas.deploy.hosts.Host`."""
        import paramiko

        until = time.monotonic() + timeout
        try:
            channel = self._client.get_transport().open_session(timeout=timeout)
            channel.settimeout(timeout)
            channel.exec_command("/bin/sh -s")
            channel.sendall(script.encode())
            channel.shutdown_write()
            out, err = _drain(channel, until)
            return Answer(channel.recv_exit_status(), out, err)
        except TimeoutError:
            raise HostError(f"{self.name} did not answer within {timeout:.0f} s") from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostError(f"the connection to {self.name} was lost: {_reason(error)}") from None

    def close(self) -> None:
        """See `mlaas.deploy.hosts.Host`."""
        for client in (self._client, *self._before):
            client.close()


def _drain(channel: Any, until: float) -> tuple[str, str]:
    out, err = bytearray(), bytearray()
    while not channel.exit_status_ready() or channel.recv_ready() or channel.recv_stderr_ready():
        if time.monotonic() > until:
            raise TimeoutError
        moved = False
        if channel.recv_ready():
            out += channel.recv(65536)
            moved = True
        if channel.recv_stderr_ready():
            err += channel.recv_stderr(65536)
            moved = True
        if not moved:
            channel.status_event.wait(0.02)
    while data := channel.recv(65536):
        out += data
    return out.decode(errors="replace"), err.decode(errors="replace")


def connect(login: Login, *, ask: bool | None = None, timeout: float = CONNECT_TIME, secret: Callable[[str], str] = getpass.getpass) -> Remote:
    """Sign in at a machine, through its jump host where one is named; `ask`: whether a person can be asked (default: on a terminal)."""
    try:
        import paramiko  # noqa: F401
    except ImportError:
        raise MissingExtraError("paramiko", "deploy") from None
    asking = sys.stdin.isatty() if ask is None else ask
    chosen = _from_config(login)
    before: list[Any] = []
    sock = None
    try:
        if chosen.jump:
            jump = _from_config(Login.parse(chosen.jump, key=login.key))
            before.append(_client(replace(jump, jump=""), None, asking, timeout, secret))
            sock = _through(before[0], chosen, jump, timeout)
        client = _client(chosen, sock, asking, timeout, secret)
    except BaseException:
        for made in before:
            made.close()
        raise
    return Remote(login.host, client, before)


def _from_config(login: Login) -> Login:
    import paramiko

    path = Path("~/.ssh/config").expanduser()
    found: dict[str, Any] = dict(paramiko.SSHConfig.from_path(str(path)).lookup(login.host)) if path.is_file() else {}
    keys = found.get("identityfile", [])
    jump = str(found.get("proxyjump", ""))
    return Login(
        host=str(found.get("hostname", login.host)),
        user=login.user or str(found.get("user", "")) or getpass.getuser(),
        port=login.port or int(found.get("port", 22)),
        key=login.key or (str(keys[0]) if keys else ""),
        jump=login.jump or ("" if jump.lower() == "none" else jump.split(",")[0]),
    )


def _through(client: Any, login: Login, jump: Login, timeout: float) -> Any:
    import paramiko

    try:
        return client.get_transport().open_channel("direct-tcpip", (login.host, login.port), ("127.0.0.1", 0), timeout=timeout)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise HostError(f"{jump.host} does not lead to {login.host}:{login.port}: {_reason(error)}") from None


def _client(login: Login, sock: Any, asking: bool, timeout: float, secret: Callable[[str], str]) -> Any:
    import paramiko

    client = paramiko.SSHClient()
    known = Path("~/.ssh/known_hosts").expanduser()
    for path in (SYSTEM_KNOWN_HOSTS, known):
        if path.is_file():
            client.load_system_host_keys(str(path))
    client.set_missing_host_key_policy(_policy(known, asking))
    where = f"{login.host}:{login.port}"
    key = str(Path(login.key).expanduser()) if login.key else None
    if login.key and not Path(key or "").is_file():
        client.close()
        raise HostError(f"there is no key file {login.key}")
    passphrase: str | None = None
    password: str | None = None
    try:
        while True:
            try:
                client.connect(
                    login.host, login.port, login.user, password, key_filename=key, passphrase=passphrase, sock=sock, timeout=timeout,
                    banner_timeout=timeout, auth_timeout=timeout, look_for_keys=key is None,
                )  # fmt: skip
            except paramiko.PasswordRequiredException:
                if passphrase is not None or not asking:
                    what = login.key or "in ~/.ssh"
                    raise HostError(f"the key {what} has a passphrase: add it to an agent (ssh-add), or run this in a terminal") from None
                passphrase = secret(f"passphrase of {login.key or 'the key'}: ")
            except paramiko.SSHException as error:
                if password is not None or not asking or sock is not None or not _by_password(error):
                    raise
                password = secret(f"password of {login.user}@{login.host}: ")
            else:
                return client
    except BaseException as error:
        client.close()
        raise _told(error, login, where) from None


def _by_password(error: BaseException) -> bool:
    """Whether a password may help: keys were refused, or there is none."""
    import paramiko

    if isinstance(error, paramiko.BadAuthenticationType):
        return bool({"password", "keyboard-interactive"} & set(error.allowed_types))
    return isinstance(error, paramiko.AuthenticationException) or _NO_WAY in str(error)


_NO_WAY = "No authentication methods available"  # no key, no agent, no password


def _told(error: BaseException, login: Login, where: str) -> BaseException:
    """The sentence for what went wrong."""
    import paramiko

    if isinstance(error, paramiko.BadHostKeyException):
        return HostError(
            f"the key of {where} is not the one in known_hosts (it shows {fingerprint(error.key)}): somebody may be listening in. If the machine was "
            f"installed anew, forget the old key: ssh-keygen -R {known_name(login)}"
        )
    if isinstance(error, paramiko.AuthenticationException) or _NO_WAY in str(error):
        return HostError(f"{where} refuses {login.user}: name another user (--user) or key (--key), or load the key into an agent (ssh-add)")
    if isinstance(error, socket.gaierror):
        return HostError(f"the name {login.host} is unknown: check it, or your DNS")
    if isinstance(error, TimeoutError):
        return HostError(f"{where} does not answer: check the address, the port and the firewall between")
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        reasons = "; ".join(sorted({_reason(one) for one in error.errors.values()}))
        return HostError(f"{where} cannot be reached ({reasons}): check the address and the port, and that an SSH server runs there")
    if isinstance(error, HostError) or not isinstance(error, paramiko.SSHException | OSError | EOFError):
        return error
    if re.search("banner|timeout|negotiation|no existing session", str(error), re.IGNORECASE):
        return HostError(f"{where} answers, but not as an SSH server does: check the port")
    return HostError(f"{where}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def known_name(login: Login) -> str:
    """How known_hosts names a machine."""
    return login.host if login.port == 22 else f"[{login.host}]:{login.port}"


def fingerprint(key: Any) -> str:
    """A host key's fingerprint, as OpenSSH shows it."""
    return f"{key.get_name()} SHA256:{base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip('=')}"


def _policy(known: Path, asking: bool) -> Any:
    import paramiko

    class Ask(paramiko.MissingHostKeyPolicy):
        """Takes an unknown key only when a person confirms it."""

        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            if not asking:
                raise HostError(
                    f"the key of {hostname} is unknown ({fingerprint(key)}): compare it with the machine's "
                    f"(ssh-keygen -lf /etc/ssh/ssh_host_..._key.pub), sign in once with ssh, or run this in a terminal"
                )
            print(f"The key of {hostname} is unknown: {fingerprint(key)}", file=sys.stderr)
            if input("Is it the machine's (yes/no)? ").strip().lower() != "yes":
                raise HostError(f"the key of {hostname} was not confirmed")
            known.parent.mkdir(mode=0o700, exist_ok=True)
            with known.open("a") as file:
                file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")

    return Ask()
