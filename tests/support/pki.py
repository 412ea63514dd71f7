"""A certificate authority of the grid for tests: a folder of authorities with hash links, certificates of hosts and users, encrypted keys."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAIN = ("test", "mlaas4hep")
HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key, and its subject as the grid writes it."""

    certificate: Path
    key: Path
    subject: str


class Authority:
    """A new authority in `folder`; `certificates` is the folder that programs of the grid are given."""

    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        self.folder = folder
        self.certificates = folder / "certificates"
        self.certificates.mkdir(parents=True)
        self._key = _key()
        self._name = _subject(name)
        self.subject = _slashes(self._name)
        builder = _builder(self._name, self._key, self._name, self._key, -HOUR, 24 * HOUR)
        for extension, critical in (
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (_usage(signs=True), True),
        ):
            builder = builder.add_extension(extension, critical)
        self.pem = folder / "ca.pem"
        self.pem.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        for option in ("-subject_hash", "-subject_hash_old"):
            digest = subprocess.run(["openssl", "x509", "-noout", option, "-in", self.pem], capture_output=True, text=True, check=True).stdout.strip()
            (self.certificates / f"{digest}.0").write_bytes(self.pem.read_bytes())
            (self.certificates / f"{digest}.signing_policy").write_text(
                f"access_id_CA   X509   '{_slashes(self._name)}'\npos_rights     globus CA:sign\n"
                f"cond_subjects  globus '\"{_slashes(_subject(''))}/*\"'\n"
            )

    def host(self, name: str, *names: str, days: float = 1) -> Pair:
        """A host's certificate for a name and others, addresses too."""
        return self._issue(name, [name, *names], days=days)

    def user(self, name: str, *, passphrase: str = "", days: float = 1) -> Pair:
        """A user's certificate; days below 0: it has expired."""
        return self._issue(name, [], passphrase=passphrase, days=days)

    def _issue(self, name: str, names: Sequence[str], *, passphrase: str = "", days: float) -> Pair:
        key = _key()
        subject = _subject(name)
        end = days * 24 * HOUR
        builder = _builder(subject, key, self._name, self._key, min(-HOUR, end - HOUR), end)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH] if names else [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True).add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(item) for item in names]), critical=False)
        stem = self.folder / name.replace(" ", "-").lower()
        certificate, secret = stem.with_suffix(".pem"), stem.with_suffix(".key")
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        protection = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        secret.touch(0o600)
        secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))
        return Pair(certificate, secret, _slashes(subject))


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _builder(
    subject: x509.Name, key: rsa.RSAPrivateKey, issuer: x509.Name, signer: rsa.RSAPrivateKey, begin: datetime.timedelta, end: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now + begin).not_valid_after(now + end)
    # voms-proxy-init refuses a chain whose certificates do not name their issuer's key
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)


def _subject(name: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.DOMAIN_COMPONENT, part) for part in DOMAIN]
    return x509.Name([*parts, *([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])])


def _slashes(name: x509.Name) -> str:
    return "".join(f"/{item.rfc4514_attribute_name}={item.value}" for item in name)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_encipherment=not signs, key_cert_sign=signs, crl_sign=signs,
        content_commitment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
