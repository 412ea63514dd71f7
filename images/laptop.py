"""Write what the service needs to run from one folder: for images/laptop, which runs this in a container of the server's image."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jinja2 import Environment
from jinja2.nativetypes import NativeEnvironment
from jinja2.runtime import Context

MLAAS, GATEWAY, IDENTITY = 10001, 10002, 10004
ROLES = Path("/roles")
USERS = {"user": ["/mlaas/users"], "admin": ["/mlaas/users", "/mlaas/admins"]}
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
YEAR = datetime.timedelta(days=365)


def put(path: Path, text: str, owner: int = 0, mode: int = 0o644) -> None:
    """Write a file that belongs to the user who reads it; never to be seen by another, not even half written."""
    aside = path.with_name(f".{path.name}.part")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.chown(aside, owner, owner)
    aside.chmod(mode)
    aside.rename(path)


def folder(path: Path, owner: int = 0, mode: int = 0o755) -> Path:
    """A folder that belongs to the user who works in it."""
    path.mkdir(exist_ok=True)
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def secret(path: Path, owner: int, make: Callable[[], str] = lambda: secrets.token_urlsafe(48)) -> str:
    """A secret's content, made at the first run."""
    if not path.exists():
        put(path, make(), owner, 0o400)
    return path.read_text()


# ---- the certificate


def _signed(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, *more: tuple[x509.ExtensionType, bool]) -> str:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number()).public_key(key.public_key())
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
    builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer[:64])]))
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + YEAR)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def certificate(tls: Path, name: str, address: str) -> None:
    """A CA that signs once and whose key is then forgotten, and what it signed: the certificate of this machine."""
    if (tls / "ca.pem").exists():
        return
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = f"MLaaS4HEP on {name}"
    signs = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(address))])
    ca = _signed(issuer, authority, issuer, authority, (x509.BasicConstraints(ca=True, path_length=0), True), (signs, True))
    serves = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    leaf = _signed(name, key, issuer, authority, (x509.BasicConstraints(ca=False, path_length=None), True), (names, False), serves)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    put(tls / "fullchain.pem", leaf + ca, 0, 0o444)
    put(tls / "privkey.pem", key.private_bytes(*form).decode(), GATEWAY, 0o440)
    put(tls / "ca.pem", ca, 0, 0o444)


# ---- the users


def hashed(password: str) -> str:
    """The form in which the identity image reads passwords."""
    salt = secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode(), salt=salt, n=16384, r=8, p=1, dklen=32)
    return f"scrypt$16384$8$1${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def people(base: Path, owner: int) -> None:
    """The users of the provider, with passwords that only the folder's owner can read."""
    if (base / "secrets" / "identity-users").exists():
        return
    passwords = {name: secrets.token_urlsafe(12) for name in USERS}
    put(base / "passwords", "".join(f"{name} {password}\n" for name, password in passwords.items()), owner, 0o400)
    users = [{"name": name, "groups": groups, "password": hashed(passwords[name])} for name, groups in USERS.items()]
    put(base / "secrets" / "identity-users", json.dumps(users, indent=1), IDENTITY, 0o400)


def clients(base: Path, name: str) -> None:
    """The provider's clients: the commands, the gateway, and the smoke test."""
    doors = [f"https://{name}:{port}" for port in (4433, 8081)]
    smoke = secret(base / "secrets" / "smoke-client-secret", MLAAS)
    gateway = secret(base / "secrets" / "gateway-client-secret", GATEWAY)
    none: dict[str, Any] = {"redirect_uris": [], "response_types": []}
    listed = [
        {"client_id": "mlaas-cli", "token_endpoint_auth_method": "none", "grant_types": [DEVICE, "refresh_token", "password"], **none},
        {"client_id": "mlaas-smoke", "client_secret": smoke, "grant_types": ["client_credentials"], "groups": USERS["user"], **none},
        {
            "client_id": "mlaas-gateway",
            "client_secret": gateway,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "redirect_uris": [f"{door}/oauth2/callback" for door in doors],
            "post_logout_redirect_uris": [f"{door}/oauth2/signed_out" for door in doors],
        },
    ]
    put(base / "secrets" / "identity-clients", json.dumps(listed, indent=1), IDENTITY, 0o400)


# ---- the gateway: the role's own templates, read without Ansible


class Lazy(Context):
    """Variables that are templates themselves, as Ansible takes them."""

    def resolve_or_missing(self, key: str) -> Any:
        """The value of a variable, rendered as often as needed."""
        return _rendered(super().resolve_or_missing(key), self.get_all())


def _rendered(value: Any, variables: dict[str, Any]) -> Any:
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return _environment(NativeEnvironment).from_string(value).render(variables)
    if isinstance(value, list):
        return [_rendered(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: _rendered(item, variables) for key, item in value.items()}
    return value


def _environment(kind: type[Environment]) -> Environment:
    """With the filters of Ansible that the templates use."""
    made = kind(trim_blocks=True, keep_trailing_newline=True)  # no HTML
    made.context_class = Lazy
    made.filters |= {
        "regex_replace": lambda text, pattern, to="": re.sub(pattern, to, text),
        "regex_escape": re.escape,
        "to_json": json.dumps,
        "urlsplit": lambda url, part: getattr(urlsplit(url), part),
        "bool": lambda value: str(value).lower() in ("true", "yes", "1"),
    }
    return made


def gateway(roles: Path, values: dict[str, Any]) -> dict[str, str]:
    """The configuration of the Apache gateway, by file; `values` are what an operator sets."""
    variables: dict[str, Any] = {"ansible_managed": "written by images/laptop"}
    for path in ("mlaas/defaults", "gateway/defaults", "gateway/vars"):
        variables |= yaml.safe_load((roles / path / "main.yml").read_text())
    variables |= values | {"mlaas_image_hub": False}
    found = {}
    for template in variables["_gateway_templates"]["apache"]:
        text = (roles / "gateway/templates" / template["src"]).read_text()
        found[template["dest"]] = _environment(Environment).from_string(text).render({**variables, "item": template})
    return found


# ---- everything


def lines(values: dict[str, str]) -> str:
    """A file of variables."""
    return "".join(f"{key}={value}\n" for key, value in values.items())


def main(name: str, address: str, socket: str, socket_group: str, version: str, prefix: str, owner: int, base: Path) -> None:
    """Write everything; what was made once stays."""
    config, data = folder(base / "config"), folder(base / "data", MLAAS, 0o700)
    tls, trust, doors = folder(config / "tls"), folder(config / "trust"), folder(config / "gateway")
    folder(base / "secrets", 0, 0o711)
    for part in ("models", "inference"):
        folder(data / part, MLAAS, 0o700)
    folder(base / "identity", IDENTITY, 0o700)
    certificate(tls, name, address)
    put(trust / "ca.pem", Path("/etc/ssl/certs/ca-certificates.crt").read_text() + (tls / "ca.pem").read_text())
    for word in ("service-key", "metrics-token", "database-password"):
        secret(base / "secrets" / word, MLAAS)
    secret(base / "secrets" / "gateway-cookie-secret", GATEWAY, lambda: secrets.token_hex(16))
    people(base, owner)
    clients(base, name)
    issuer = f"https://{name}:9443"
    site = {"mlaas_host_name": name, "mlaas_oidc_issuer": issuer, "mlaas_oidc_client_id": "mlaas-gateway"}
    for file, text in gateway(ROLES, site).items():
        put(doors / file, text)
    shutil.copytree(ROLES / "gateway/files/errors", doors / "errors", dirs_exist_ok=True)
    common = {
        "MLAAS_OIDC_ISSUERS": issuer,
        "MLAAS_OIDC_AUDIENCES": "mlaas",
        "MLAAS_OIDC_CA_FILE": "/etc/trust/ca.pem",
        "MLAAS_USER_GROUPS": "/mlaas/users",
        "MLAAS_ADMIN_GROUPS": "/mlaas/admins",
    }
    put(base / "server.env", lines(common))
    put(base / "inference.env", lines(common))
    variables = {
        "COMPOSE_PROFILES": "apache,identity",
        "MLAAS_IMAGES": prefix,
        "MLAAS_VERSION": version,
        "MLAAS_HOST_NAME": name,
        "MLAAS_PUBLIC_URL": f"https://{name}:4433",
        "MLAAS_INFERENCE_PUBLIC_URL": f"https://{name}:8081",
        "MLAAS_CONFIG": str(config),
        "MLAAS_SECRETS": str(base / "secrets"),
        "MLAAS_DATA_FOLDER": str(data),
        "MLAAS_IDENTITY_FOLDER": str(base / "identity"),
        "MLAAS_GATEWAY_ADDRESS": address,
        "MLAAS_IDENTITY_ADDRESS": address,
        "MLAAS_DOCKER_SOCKET": socket,
        "MLAAS_DOCKER_GID": socket_group,
    }
    put(base / ".env", lines(variables))


if __name__ == "__main__":
    _folder, _name, _address, _socket, _group, _version, _prefix, _owner = sys.argv[1:]
    main(_name, _address, _socket, _group, _version, _prefix, int(_owner), Path(_folder))
