#!/usr/bin/python3
# ruff: noqa: UP017, B905, RUF007 (Python 3.9)
"""The TLS certificate of the MLaaS4HEP gateway: made, checked, renewed, swapped.

    mlaas-tls check   < {"certificate": PEM, "key": PEM, "ca": PEM, "names": [...]}    says what does not fit
    mlaas-tls install < the same                                                       checks it and puts it in place
    mlaas-tls renew                                                                    what the timer calls
    mlaas-tls show

The settings are in /etc/mlaas/tls.json, written by the role `tls`. Exit status: 0 good (a line `changed: ...` where something was), 1 an error,
3 a renewal failed and the old certificate still holds. Runs with Python 3.9 and cryptography 3.4, which Enterprise Linux 9 and Ubuntu 22.04 have.
"""

from __future__ import annotations

import argparse
import fcntl
import grp
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Union

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CONFIGURATION = "/etc/mlaas/tls.json"
LABEL = "mlaas.tls.reload"
PENDING = "..reload"  # the containers were not told yet
CERTBOT_TIME = 300  # s
HOUR = timedelta(hours=1)
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


class TlsError(Exception):
    """What went wrong, in sentences."""

    status = 1


class NotRenewedError(TlsError):
    """The renewal failed; the old certificate still holds."""

    status = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("command", choices=["check", "install", "renew", "show"])
    parser.add_argument("--config", default=CONFIGURATION, metavar="FILE", help=f"default: {CONFIGURATION}")
    options = parser.parse_args()
    try:
        if options.command == "check":
            return _told(problems(json.load(sys.stdin)))
        site = Site(json.loads(Path(options.config).read_text()))
        print({"install": site.install, "renew": site.renew, "show": site.show}[options.command]())
    except TlsError as failure:
        print(failure, file=sys.stderr)
        return failure.status
    except OSError as error:
        print(f"{error.filename or 'mlaas-tls'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _told(sentences: list[str]) -> int:
    for sentence in sentences:
        print(sentence)
    return 1 if sentences else 0


class Site:
    """The certificate of this host, as its configuration wants it."""

    def __init__(self, conf: dict[str, Any]) -> None:
        self.conf = conf
        self.folder = Path(conf["folder"])
        self.names, self.addresses = split(conf["names"])
        self.folder.mkdir(mode=0o755, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # the timer and a playbook may run at once

    def install(self) -> str:
        """Put a certificate from standard input in place."""
        return self._put(json.load(sys.stdin))

    def renew(self) -> str:
        """Make or fetch a new certificate where one is due, and tell the containers."""
        source = self.conf["source"]
        if source == "provided" and self.conf.get("files"):
            said = self._put({name: Path(path).read_text() if path else "" for name, path in self.conf["files"].items()})
        elif source == "provided":
            said = self._reloaded("unchanged")
        elif reason := self._due():
            said = self._put(self._self_signed() if source == "self-signed" else self._acme(reason))
        else:
            said = self._reloaded("unchanged")
        if source == "provided" and (left := days_left(self._leaf())) < self.conf["renew_days"]:
            raise NotRenewedError(f"the certificate ends in {left:.0f} days: provide a new one (tls_certificate, tls_key)")
        return said

    def show(self) -> str:
        """Whose certificate it is, and until when."""
        leaf = self._leaf()
        names = ", ".join(map(str, [*covered(leaf)[0], *covered(leaf)[1]]))
        return f"{names}; issued by {leaf.issuer.rfc4514_string()}; ends {ending(leaf)} ({days_left(leaf):.0f} days)"

    # what is there

    def _leaf(self) -> x509.Certificate:
        return certificates((self.folder / "fullchain.pem").read_text())[0]

    def _origin(self) -> dict[str, Any]:
        """What a certificate of today's settings is made from; kept beside it, so that a change is seen."""
        conf = self.conf
        kept = {"source": conf["source"], "names": conf["names"], "key_type": conf["key_type"]}
        return {**kept, "directory": conf["acme"]["directory"]} if conf["source"] == "acme" else kept

    def _due(self) -> str:
        """Why a new certificate is needed, or nothing."""
        try:
            leaf, origin = self._leaf(), json.loads((self.folder / "origin.json").read_text())
        except (OSError, ValueError, TlsError):
            return "there is none yet"
        if origin != self._origin():
            return "what it is made from has changed"
        if self.conf["source"] == "self-signed" and not (Path(self.conf["ca_folder"]) / "ca.pem").exists():
            return "its CA is gone"
        if (left := days_left(leaf)) < min(self.conf["renew_days"], (end(leaf) - begin(leaf)) / timedelta(days=3)):
            return f"it ends in {left:.1f} days"
        return ""

    # what is put there

    def _put(self, given: dict[str, str]) -> str:
        wrong = problems({**given, "names": self.conf["names"]})
        if wrong:
            raise TlsError("\n".join(wrong))
        origin = json.dumps(self._origin())
        group = grp.getgrnam(self.conf["group"]).gr_gid
        wanted = {
            "fullchain.pem": (given["certificate"], 0o444, os.getegid()),
            "privkey.pem": (given["key"], 0o440, group),
            "ca.pem": (given.get("ca", ""), 0o444, os.getegid()),
            "origin.json": (origin, 0o444, os.getegid()),
        }
        if all(self._is(name, *kept) for name, kept in wanted.items()):
            return self._reloaded("unchanged")
        (self.folder / PENDING).touch(mode=0o600)
        swap(self.folder, wanted)
        return self._reloaded(f"changed: {self.show()}")

    def _is(self, name: str, text: str, mode: int, group: int) -> bool:
        path = self.folder / name
        try:
            found = path.stat()
            return path.read_text() == text and found.st_mode & 0o777 == mode and found.st_gid == group
        except OSError:
            return False

    def _reloaded(self, said: str) -> str:
        """Let the running containers take the new certificate; what failed is tried again at the next run."""
        if not (self.folder / PENDING).exists():
            return said
        for name, action in running():
            command = ["docker", "restart", name] if action == "restart" else ["docker", "kill", "--signal", action, name]
            _run(command, f"the certificate is in place, but the container {name} could not be told")
        (self.folder / PENDING).unlink()
        return said

    # where it comes from

    def _self_signed(self) -> dict[str, str]:
        conf, now = self.conf, datetime.now(timezone.utc)
        folder = Path(conf["ca_folder"])
        folder.mkdir(mode=0o700, exist_ok=True)
        authority = Authority(folder, conf, self.names, self.addresses)
        key = new_key(conf["key_type"])
        usage = x509.KeyUsage(True, False, conf["key_type"] == "rsa", False, False, False, False, False, False)
        names = [*map(x509.DNSName, self.names), *map(x509.IPAddress, self.addresses)]
        leaf = (
            x509.CertificateBuilder()
            .subject_name(named(str(conf["names"][0])))
            .issuer_name(authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + timedelta(days=conf["days"]))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False)
            .sign(authority.key, hashes.SHA256())
        )
        return {"certificate": pem(leaf), "key": key_pem(key), "ca": authority.trust}

    def _acme(self, reason: str) -> dict[str, str]:
        folder = Path(self.conf["acme"]["folder"])
        if self.addresses:
            raise TlsError(f"ACME gives no certificate for the address {self.addresses[0]}: set mlaas_host_name and tls_names to DNS names")
        live, issued = folder / "config" / "live" / "mlaas", folder / "issued.json"
        origin = json.dumps(self._origin())
        fetched = issued.exists() and issued.read_text() == origin and self._fresh(live / "fullchain.pem")
        if not fetched:
            try:
                self._certbot()
            except TlsError as failure:
                raise self._kept(reason, str(failure)) from None
            write(issued, origin, 0o644)
        ca = folder / "ca.pem"
        given = {"certificate": live / "fullchain.pem", "key": live / "privkey.pem", "ca": ca}
        return {name: path.read_text() if path.exists() else "" for name, path in given.items()}

    def _certbot(self, again: bool = False) -> None:
        acme = self.conf["acme"]
        folder, log = Path(acme["folder"]), Path(acme["logs"]) / "letsencrypt.log"
        command = ["certbot", "certonly", "--config", str(folder / "cli.ini"), "--non-interactive", "--cert-name", "mlaas", "--force-renewal"]
        command += ["--renew-with-new-domains", "--key-type", self.conf["key_type"]]
        environment = {**os.environ, **({"REQUESTS_CA_BUNDLE": acme["trust"]} if acme["trust"] else {})}
        try:
            _run([*command, *(part for name in self.names for part in ("-d", name))], "", environment, lambda said: _certbot_says(said, log))
        except TlsError as failure:
            accounts = folder / "config" / "accounts"
            if again or "accountDoesNotExist" not in str(failure) or not accounts.exists():
                raise
            shutil.rmtree(accounts)  # the server has forgotten us, as one that was set up anew does
            self._certbot(again=True)

    def _fresh(self, path: Path) -> bool:
        """A certificate that was fetched, but not put in place because something stopped it."""
        try:
            return fingerprint(certificates(path.read_text())[0]) != fingerprint(self._leaf())
        except (OSError, TlsError):
            return path.exists()

    def _kept(self, reason: str, why: str) -> TlsError:
        text = f"no certificate from {self.conf['acme']['directory']} ({reason}): {why}"
        try:
            leaf = self._leaf()
        except (OSError, TlsError):
            return TlsError(text)
        good = days_left(leaf) > 0 and not uncovered(leaf, *split(self.conf["names"]))
        return NotRenewedError(f"{text}; the old one stays and holds until {ending(leaf)}") if good else TlsError(text)


class Authority:
    """Our own CA, which may sign for the names of this host only."""

    def __init__(self, folder: Path, conf: dict[str, Any], names: list[str], addresses: list[Address]) -> None:
        self._key, self._pem, self._old = folder / "ca.key", folder / "ca.pem", folder / "previous.pem"
        self._conf, self._permitted = conf, constraints(names, addresses)
        try:
            self.key = load_key(self._key.read_bytes())
            self.certificate = certificates(self._pem.read_text())[0]
            usable = self._suits()
        except FileNotFoundError:
            usable = False
        if not usable:
            self._make()

    @property
    def trust(self) -> str:
        """What clients must trust: this CA, and those before it that still hold."""
        before = certificates(self._old.read_text()) if self._old.exists() else []
        return pem(self.certificate) + "".join(pem(old) for old in before if days_left(old) > 0)

    def _suits(self) -> bool:
        held = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
        return set(self._permitted) <= set(held or []) and days_left(self.certificate) > self._conf["days"]

    def _make(self) -> None:
        now = datetime.now(timezone.utc)
        if self._pem.exists():
            write(self._old, self.trust, 0o444)
        self.key = new_key(self._conf["key_type"])
        name = named(f"MLaaS4HEP CA {now:%Y-%m-%d %H:%M} {self._conf['names'][0]}")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + timedelta(days=self._conf["ca_days"]))
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(usage, True)
            .add_extension(x509.NameConstraints(self._permitted, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False)
            .sign(self.key, hashes.SHA256())
        )
        write(self._key, key_pem(self.key), 0o400)
        write(self._pem, pem(self.certificate), 0o444)


# what must fit


def problems(given: dict[str, Any]) -> list[str]:
    """A sentence for everything that does not fit between certificate, key, CA and names."""
    try:
        chain = certificates(given["certificate"], "tls_certificate")
        key = load_key(given["key"].encode())
        roots = certificates(given["ca"], "tls_ca") if given.get("ca", "").strip() else []
    except TlsError as failure:
        return [str(failure)]
    leaf, now = chain[0], datetime.now(timezone.utc)
    found = []
    if public(leaf.public_key()) != public(key.public_key()):
        found.append("tls_key does not belong to tls_certificate (the server's own certificate must come first)")
    if missing := uncovered(leaf, *split(given["names"])):
        names = ", ".join(map(str, [*covered(leaf)[0], *covered(leaf)[1]])) or "no name at all"
        found.append(f"tls_certificate is for {names}, and not for {', '.join(missing)} (mlaas_host_name, tls_names)")
    if begin(leaf) > now:
        found.append(f"tls_certificate holds from {begin(leaf):%Y-%m-%d %H:%M} UTC only, and the clock says {now:%Y-%m-%d %H:%M}: is it right?")
    if end(leaf) <= now:
        found.append(f"tls_certificate ended on {ending(leaf)}")
    if not for_servers(leaf):
        found.append("tls_certificate is not for servers (its extended key usage lacks serverAuth)")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < 2048:
        found.append(f"tls_key has {key.key_size} bits; RSA needs 2048 or more")
    return found + broken(chain, roots)


def broken(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> list[str]:
    """Where the chain breaks, from the server's certificate to the CA that clients trust."""
    for number, (one, issuer) in enumerate(zip(chain, chain[1:]), 2):
        if not signed_by(one, issuer):
            return [f"certificate {number} of tls_certificate did not sign the one before it: put the server's first, then each issuer in turn"]
    if roots and not any(fingerprint(chain[-1]) == fingerprint(root) or signed_by(chain[-1], root) for root in roots):
        return [f"no certificate in tls_ca signed {chain[-1].subject.rfc4514_string()}: an intermediate certificate or the right CA is missing"]
    return []


def signed_by(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key made the signature."""
    if one.issuer != issuer.subject:
        return False
    key, data = issuer.public_key(), (one.signature, one.tbs_certificate_bytes)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            pss = one.signature_algorithm_oid == x509.oid.SignatureAlgorithmOID.RSASSA_PSS
            if pss:
                return True  # its parameters cannot be read with older libraries; the names fit
            key.verify(*data, padding.PKCS1v15(), one.signature_hash_algorithm)  # type: ignore[arg-type]
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(*data, ec.ECDSA(one.signature_hash_algorithm))  # type: ignore[arg-type]
        else:
            key.verify(*data)  # type: ignore[union-attr,call-arg]
    except InvalidSignature:
        return False
    return True


def for_servers(leaf: x509.Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def uncovered(leaf: x509.Certificate, names: list[str], addresses: list[Address]) -> list[str]:
    """Which names and addresses the certificate does not hold."""
    held, held_addresses = covered(leaf)
    wild = {f"*.{name.split('.', 1)[-1]}": name for name in names}
    matched = {name for pattern, name in wild.items() if pattern in held} | {name for name in names if name in held}
    matched |= {name for name in names if f"*.{name.split('.', 1)[-1]}" in held}
    return [name for name in names if name not in matched] + [str(address) for address in addresses if address not in held_addresses]


def covered(leaf: x509.Certificate) -> tuple[list[str], list[Address]]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    addresses = [ipaddress.ip_address(str(address)) for address in names.get_values_for_type(x509.IPAddress)]
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)], addresses


# small parts


def running() -> list[list[str]]:
    """The running containers that must be told, each with how; none where no Docker runs."""
    try:
        told = _run(["docker", "ps", "--filter", f"label={LABEL}", "--format", '{{.Names}} {{.Label "' + LABEL + '"}}'], "docker ps")
    except TlsError:
        return []
    return [line.split(maxsplit=1) for line in told.splitlines()]


def split(names: list[str]) -> tuple[list[str], list[Address]]:
    """DNS names and addresses apart, each once."""
    dns: list[str] = []
    addresses: list[Address] = []
    for name in dict.fromkeys(name.lower().rstrip(".") for name in names):
        try:
            addresses.append(ipaddress.ip_address(name))
        except ValueError:
            dns.append(name)
    return dns, addresses


def constraints(names: list[str], addresses: list[Address]) -> list[x509.GeneralName]:
    dns = dict.fromkeys(name[2:] if name.startswith("*.") else name for name in names)
    return [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_network(str(address))) for address in addresses)]


def certificates(text: str, what: str = "the certificate") -> list[x509.Certificate]:
    """The certificates of a PEM text."""
    blocks = re.findall("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL)
    if not blocks:
        raise TlsError(f"{what} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    try:
        return [x509.load_pem_x509_certificate(block.encode()) for block in blocks]
    except ValueError:
        raise TlsError(f"{what} is damaged: a certificate in it cannot be read") from None


def load_key(text: bytes) -> Any:
    try:
        return serialization.load_pem_private_key(text, None)
    except TypeError:
        raise TlsError("tls_key is encrypted with a passphrase: give it without one (openssl pkey -in KEY), in a vault") from None
    except Exception:  # the library has an exception of its own for each kind of damage
        raise TlsError("tls_key holds no private key in PEM form that can be read") from None


def new_key(kind: str) -> Any:
    return rsa.generate_private_key(65537, 3072) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return str(key.private_bytes(*form).decode())


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def public(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def fingerprint(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def begin(certificate: x509.Certificate) -> datetime:
    new = getattr(certificate, "not_valid_before_utc", None)
    return new if new is not None else certificate.not_valid_before.replace(tzinfo=timezone.utc)


def end(certificate: x509.Certificate) -> datetime:
    new = getattr(certificate, "not_valid_after_utc", None)
    return new if new is not None else certificate.not_valid_after.replace(tzinfo=timezone.utc)


def ending(certificate: x509.Certificate) -> str:
    return f"{end(certificate):%Y-%m-%d %H:%M} UTC"


def days_left(certificate: x509.Certificate) -> float:
    return (end(certificate) - datetime.now(timezone.utc)) / timedelta(days=1)


def write(path: Path, text: str, mode: int) -> None:
    """A file that is never there by half."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    _write_new(part, text, mode, os.getegid())
    part.replace(path)


def _write_new(path: Path, text: str, mode: int, group: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as stream:
        stream.write(text)
        os.fchown(file, os.geteuid(), group)
        os.fchmod(file, mode)
        os.fsync(file)


def swap(folder: Path, files: dict[str, tuple[str, int, int]]) -> None:
    """Replace all files at once: they are links through ..data, which one rename turns to the new set, in containers that mount the folder, too."""
    before = folder / (folder / "..data").readlink() if (folder / "..data").is_symlink() else None
    made = Path(tempfile.mkdtemp(prefix="..set-", dir=folder))
    made.chmod(0o755)
    for name, (text, mode, group) in files.items():
        _write_new(made / name, text, mode, group)
    _link(folder / "..data", made.name)
    for name in files:
        _link(folder / name, f"..data/{name}")
    for old in folder.glob("..set-*"):
        if old not in (made, before):  # somebody may be reading the one before
            shutil.rmtree(old)


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and str(path.readlink()) == target:
        return
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(path)


def _run(command: list[str], what: str, environment: Any = None, says: Any = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CERTBOT_TIME, env=environment, check=False)
    except FileNotFoundError:
        raise TlsError(f"the program {command[0]} is missing") from None
    except subprocess.TimeoutExpired:
        raise TlsError(f"{what or command[0]}: no answer within {CERTBOT_TIME} s") from None
    if done.returncode:
        told = says(done.stdout + done.stderr) if says else f"{what}: {(done.stderr.strip() or done.stdout.strip())[-300:]}"
        raise TlsError(told)
    return done.stdout


def _certbot_says(output: str, log: Path) -> str:
    """Its reason, without the advice around it."""
    if details := dict.fromkeys(re.findall(r"^\s*Detail: (.+)$", output, re.MULTILINE)):
        return "; ".join(details)
    # the answers of the server are in the log only: with Debian's libraries an error of its own hides them
    if answers := re.findall(r"^acme\.messages\.Error: (?:urn:ietf:params:acme:error:)?(.+)$", log.read_text() if log.exists() else "", re.MULTILINE):
        return str(answers[-1])
    noise = re.compile(r"^(Saving debug log|Ask for help|See the logfile|- - -|Hint:|Account registered|Requesting|Renewing)|^\s*$")
    lines = [line.strip() for line in output.splitlines() if not noise.match(line)]
    return lines[-1] if lines else f"certbot said nothing; see its log {log}"


if __name__ == "__main__":
    sys.exit(main())
