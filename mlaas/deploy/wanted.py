"""What a machine must have and reach, from the defaults of the roles, an inventory, or flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mlaas.errors import UserError
from mlaas.sizes import read_size

SYSTEMS = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04"), "enterprise linux": ("9",)}
ARCHITECTURES = ("x86_64",)
DATA = "/var/lib/mlaas"
ENGINE = "/var/lib/docker"
ISSUER = "/.well-known/openid-configuration"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a machine. A test keeps the defaults equal to those of the role `mlaas`."""

    ports: Mapping[int, str] = field(default_factory=lambda: {4433: "the server", 8081: "inference"})
    data: str = DATA
    memory: int = 4 * 2**30
    disk: int = 10 * 2**30
    clock: float = 30.0  # s
    issuer: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)  # name -> address that must be reached

    @property
    def reached(self) -> dict[str, str]:
        """The addresses to try, by name; that of the issuer is its discovery document."""
        issuer = {"issuer": self.issuer.rstrip("/") + ISSUER} if self.issuer else {}
        return issuer | dict(self.targets)


def from_variables(variables: Mapping[str, Any]) -> Wanted:
    """What the variables of an inventory ask for; templates in it are left to Ansible."""
    given = {name: value for name, value in variables.items() if not (isinstance(value, str) and "{{" in value)}
    text = {name: str(value) for name, value in given.items()}
    components = given.get("mlaas_components") or ["gateway", "server", "worker", "inference"]
    acme = text.get("tls_source") == "acme"
    ports: dict[int, str] = {}
    if "gateway" in components:
        ports = {_port(text, "mlaas_server_port", 4433): "the server", _port(text, "mlaas_inference_port", 8081): "inference"}
    if "identity" in components:
        ports[_port(text, "mlaas_identity_port", 9443)] = "the OpenID provider"
    if acme and text.get("tls_acme_challenge", "standalone") == "standalone":
        ports[_port(text, "tls_acme_port", 80)] = "the ACME challenge"
    targets = {}
    if acme:
        targets["acme"] = text.get("tls_acme_directory", "https://acme-v02.api.letsencrypt.org/directory")
    hub = text.get("mlaas_images", "").split("/")[0] if text.get("mlaas_image_source") == "pull" else ""
    if hub:
        targets["images"] = f"https://{hub}/v2/"
    origins = [text.get("server_redirector", ""), text.get("xrootd_origin", ""), *map(str, given.get("xrootd_permit") or [])]
    for place in filter(None, map(redirector, origins)):
        targets[f"redirector:{place}"] = place
    plain = Wanted()
    return Wanted(
        ports=ports,
        data=text.get("mlaas_data_folder", DATA),
        memory=_size(text, "mlaas_minimum_memory", plain.memory),
        disk=_size(text, "mlaas_minimum_disk", plain.disk),
        clock=float(text.get("mlaas_clock_tolerance", plain.clock)),
        issuer="" if "identity" in components else text.get("mlaas_oidc_issuer", ""),
        targets=targets,
    )


def _port(text: Mapping[str, str], name: str, default: int) -> int:
    value = text.get(name, str(default))
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise UserError(f"{name} is a port from 1 to 65535, got: {value}")
    return int(value)


def _size(text: Mapping[str, str], name: str, default: int) -> int:
    try:
        # Ansible counts in powers of two
        return read_size(re.sub("(?i)(?<=[kmgt])b", "ib", text[name])) if name in text else default
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def redirector(address: str) -> str:
    """`root://host[:port]//...`, `host[:port]` as host:port; an empty text for anything else."""
    parts = urlsplit(address if "://" in address else f"root://{address}")
    if parts.scheme not in {"root", "roots", "xroot", "xroots"} or not parts.hostname or "*" in parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or 1094}"
