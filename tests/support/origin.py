"""XRootD servers that demand a credential: GSI, a VOMS group, or a WLCG token.

A folder is laid out once, with configuration, certificates and files, and runs here as a process or, mounted at `seen`, in a container:

    python -m tests.support.origin FOLDER [NAME...]      everything for a GSI origin by these names, and a robot that it knows
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import uproot

from tests.support.pki import Authority, Pair

Demand = Literal["gsi", "voms", "token"]
GROUP = "/testvo/mlaas"
AUDIENCE = "https://origin.test"
PASSPHRASE = "a passphrase, with 'quotes'"  # noqa: S105
ORIGIN = "/origin"  # where a container sees the folder
RUN = "/run/xrootd"
NETWORK = "mlaas_storage"  # where the proxy looks for origins


class Origin:
    """The folder of an origin.

    users: subjects that it lets in (gsi). issuer: whose tokens it takes, and bundle: which authorities it trusts then (token).
    seen: where its process sees the folder.
    """

    def __init__(
        self, folder: Path, authority: Authority, *, names: tuple[str, ...] = ("localhost",), port: int = 1094, demand: Demand = "gsi",
        users: tuple[str, ...] = (), issuer: str = "", seen: str = "", run: str = "", vomsdir: Path | None = None, bundle: Path | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.authority, self.port, self.bundle = folder, authority, port, bundle
        self.store = folder / "data" / "store"
        self.store.mkdir(parents=True)
        self.run = run or str(folder / "run")
        self.vomsdir = vomsdir
        self.url = f"root://{names[0]}:{port}"
        where = seen or str(folder)
        shutil.copytree(authority.certificates, folder / "certificates")
        host = authority.host(*names)
        for source, target in ((host.certificate, "host.pem"), (host.key, "host.key")):
            shutil.copy(source, folder / target)
        (folder / "host.key").chmod(0o400)
        (folder / "grid-mapfile").write_text("".join(f'"{subject}" mlaas\n' for subject in users))
        (folder / "authdb").write_text(f"g {GROUP} /store rl\n" if demand == "voms" else "u mlaas /store rl\n")
        (folder / "scitokens.cfg").write_text(
            f"[Global]\naudience = {AUDIENCE}\nonmissing = deny\n\n[Issuer test]\nissuer = {issuer}\nbase_path = /\ndefault_user = mlaas\n"
        )
        lines = [
            "all.export /store r/o",
            f"all.adminpath {self.run}",
            f"all.pidpath {self.run}",
            f"oss.localroot {where}/data",
            f"xrd.port {port}",
            "xrootd.seclib libXrdSec.so",
            "ofs.authorize",
            "xrootd.trace login",
            *getattr(self, f"_{demand}")(where),
        ]
        (folder / "origin.cfg").write_text("\n".join(lines) + "\n")

    def _gsi(self, where: str, voms: str = "-gridmap:{}/grid-mapfile -gmapopt:2") -> list[str]:
        host = f"-certdir:{where}/certificates -cert:{where}/host.pem -key:{where}/host.key -crl:1"
        return [f"sec.protocol gsi {host} {voms.format(where)}", "sec.protbind * only gsi", f"acc.authdb {where}/authdb"]

    def _voms(self, where: str) -> list[str]:
        attributes = f"-vomsat:require -vomsfun:default -vomsfunparms:certfmt=pem|vos=testvo|grps={GROUP}"
        return self._gsi(where, f"-gridmap:none -gmapopt:0 {attributes}")

    def _token(self, where: str) -> list[str]:
        return [
            f"xrd.tls {where}/host.pem {where}/host.key",
            f"xrd.tlsca certdir {where}/certificates",
            "xrootd.tls capable all",
            "sec.protocol ztn",
            "sec.protbind * only ztn",
            f"ofs.authlib libXrdAccSciTokens.so config={where}/scitokens.cfg",
        ]

    def archive(self) -> bytes:
        """The folder as a tar archive, for a machine elsewhere; what is in it belongs to the user of the image xrootd."""

        def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.uid = entry.gid = 10003
            entry.uname = entry.gname = ""  # names would count more than numbers
            return entry

        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(self.folder, arcname=".", filter=owned)
        return packed.getvalue()

    def __enter__(self) -> Self:
        """Run it here, as nobody."""
        Path(self.run).mkdir()
        environment = os.environ | {"X509_CERT_DIR": str(self.folder / "certificates"), "XDG_CACHE_HOME": str(self.folder / "run"), "HOME": self.run}
        if self.vomsdir:
            environment["X509_VOMS_DIR"] = str(self.vomsdir)
        command = ["xrootd", "-c", str(self.folder / "origin.cfg"), "-n", "origin"]
        if os.geteuid() == 0:  # xrootd refuses to run as root
            for path in (Path(self.run), self.folder / "host.key"):
                shutil.chown(path, "nobody", "nogroup")
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        if self.bundle:  # libSciTokens knows no other place of what it trusts
            script = f'mount --bind "$0" {SYSTEM_BUNDLE} && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", script, str(self.bundle), *command]
        self.log = self.folder / "log"
        self.process = start(command, self.log, environment, cwd=self.run)
        listening(self.process, self.port, self.log)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        end(self.process)


SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def start(command: list[str], log: Path, environment: dict[str, str], cwd: str = "/") -> subprocess.Popen[bytes]:
    """Start a program whose output goes to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=cwd)


def listening(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float = 20) -> None:
    """Wait until a server listens (in /proc: a connection would be in its log)."""
    until = time.monotonic() + seconds
    wanted = f":{port:04X}"
    while True:
        rows = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        if any(row[1].endswith(wanted) and row[3] == "0A" for row in rows):
            return
        assert process.poll() is None, f"it ended:\n{log.read_text(errors='replace')[-4000:]}"
        assert time.monotonic() < until, f"it does not listen:\n{log.read_text(errors='replace')[-4000:]}"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def lay_out(folder: Path, *names: str, files: Sequence[Path] = ()) -> tuple[Origin, Pair]:
    """A GSI origin for a container that sees the folder `origin` at ORIGIN, and the robot that it knows, whose key has PASSPHRASE.

    files: what it serves below /store. Beside origin/ there are origin.tar, robot.pem, robot.key, passphrase, certificates/ (the authorities).
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "authority")
    robot = authority.user("Robot", passphrase=PASSPHRASE)
    given = names or ("origin",)
    certified = given + tuple(f"{name}.{NETWORK}" for name in given)  # what its address leads back to
    origin = Origin(folder / "origin", authority, names=certified, users=(robot.subject,), seen=ORIGIN, run=RUN)
    for file in files:
        shutil.copy(file, origin.store)
        (origin.store / file.name).chmod(0o644)
    (folder / "origin.tar").write_bytes(origin.archive())
    for source, name in ((robot.certificate, "robot.pem"), (robot.key, "robot.key")):
        shutil.copy(source, folder / name)
    shutil.copytree(authority.certificates, folder / "certificates")
    (folder / "passphrase").write_text(PASSPHRASE)
    return origin, robot


def events(path: Path, number: int = 1000, first: int = 0) -> Path:
    """A ROOT file with the tree `events` and its branch `x`: `first`, `first` + 1 and so on."""
    with uproot.recreate(path) as file:
        file["events"] = {"x": np.arange(float(first), float(first + number))}
    return path


def docker_run(image: str, folder: str, *, name: str = "origin", network: str = NETWORK, aliases: tuple[str, ...] = ()) -> list[str]:
    """The command that runs a laid out origin in a container of the image xrootd; folder: where the machine has its files."""
    options = ["--detach", f"--name={name}", f"--network={network}", *(f"--network-alias={alias}" for alias in aliases)]
    options += [f"--volume={folder}:{ORIGIN}:ro", f"--tmpfs={RUN}:uid=10003,gid=10003,mode=0700", f"--env=X509_CERT_DIR={ORIGIN}/certificates"]
    return ["docker", "run", *options, "--no-healthcheck", image, "xrootd", "-c", f"{ORIGIN}/origin.cfg", "-n", "origin"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as aside:
        lay_out(Path(sys.argv[1]), *sys.argv[2:], files=[events(Path(aside, "x.root"))])
