"""What the role refuses before anything is changed, each with a sentence that names the variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.gateway.engine import ROOT, variables

PORTS = {"server": 4433, "inference": 8081}
UPSTREAMS = {"server": "http://server:8080", "inference": "http://inference:8081"}


def faults(**given: object) -> list[str]:
    values = variables("apache", Path("/nowhere"), PORTS, UPSTREAMS, "https://iam.example.org")
    values["_mlaas_size"] = DataLoader().load_from_file(str(ROOT / "roles" / "mlaas" / "vars" / "main.yml"))["_mlaas_size"]
    values |= {"mlaas_oidc_client_secret": "a-good-secret/+=s", "__gateway_secret": {"stat": {"exists": False}}}
    found = Templar(loader=DataLoader(), variables=values | given).template(values["_gateway_faults"])
    return [sentence for sentence in found if sentence]


def test_good_variables():
    assert faults() == []
    assert faults(gateway_session_seconds="600", gateway_refresh_seconds="60", gateway_connections="100") == []
    assert faults(mlaas_oidc_client_secret="", __gateway_secret={"stat": {"exists": True}}) == []
    assert faults(mlaas_oidc_client_secret="", mlaas_components=["gateway", "identity"]) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlaas_oidc_client_secret", ""),
        ("mlaas_oidc_client_secret", 'quo"te'),
        ("mlaas_oidc_client_secret", "back\\slash"),
        ("mlaas_oidc_client_secret", "a b"),
        ("mlaas_oidc_client_id", ""),
        ("gateway_cookie_secret", "short"),
        ("gateway_scope", "profile email"),
        ("gateway_scope", 'openid "x"'),
        ("gateway_session_seconds", 10),
        ("gateway_refresh_seconds", 0),
        ("gateway_refresh_seconds", 100_000),
        ("gateway_timeout", 0),
        ("gateway_hsts_seconds", -1),
        ("gateway_connections", 10),
        ("gateway_connections", 5000),
        ("gateway_tls_ciphers", []),
        ("gateway_address", "gateway.example.org"),
        ("gateway_address", "2001:db8::1"),
        ("gateway_signed_out_url", "http://mlaas.example.org/x"),
        ("gateway_signed_out_url", "https://mlaas.example.org"),
        ("gateway_memory", "much"),
        ("gateway_memory", ""),
        ("gateway_audiences", ['x"y']),
        ("gateway_allowed_groups", ["/a\nRequire all granted"]),
    ],
    ids=str,
)
def test_a_wrong_variable_has_its_sentence(name, value):
    (sentence,) = faults(**{name: value})
    assert name in sentence
