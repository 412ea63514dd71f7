"""Tokens of a real OpenID provider: which are accepted, and what is said about those that are not."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mlaas.auth.authenticator import LONGEST, Authenticator
from mlaas.auth.errors import AuthError
from mlaas.auth.identity import tenant_of
from mlaas.auth.oidc import Oidc
from mlaas.errors import UserError
from mlaas.settings import Settings
from tests.service.openid import provider

pytestmark = pytest.mark.needs("node", "npm")
KEY = b"k" * 64


def settings(found, **changes):
    values = {
        "auth": "oidc",
        "oidc_issuers": [found.url],
        "oidc_audiences": ["mlaas", "https://wlcg.cern.ch/jwt/v1/any"],
        "user_groups": ["mlaas/users"],
        "admin_groups": ["/mlaas/admins"],
    }
    return Settings(**(values | changes))


def door(found, **changes):
    return Authenticator(KEY, oidc=Oidc(settings(found, **changes)))


def known(found, token, **changes):
    return asyncio.run(door(found, **changes).authenticate(token))


def refused(found, token, **changes):
    with pytest.raises(AuthError) as caught:
        known(found, token, **changes)
    assert token[:20] not in str(caught.value)
    return caught.value


def test_where_a_browser_ends_its_session(openid):
    found = door(openid)
    who = asyncio.run(found.authenticate(openid.token()))
    assert found.end_session(who) == f"{openid.url}/session/end"
    assert found.end_session(replace(who, issuer="https://other.example.org")) == ""


def test_a_user(openid):
    who = known(openid, openid.token("alice", scope="compute.read compute.create"))
    assert (who.subject, who.issuer, who.name) == ("alice", openid.url, "alice")
    assert who.tenant == tenant_of(openid.url, "alice")
    assert who.groups == {"/mlaas/users", "/cms/higgs"}
    assert who.roles == {"user"}
    assert not who.browser
    assert who.expires > time.time()
    assert who.may("create")
    assert not who.may("cancel")


def test_an_administrator(openid):
    assert known(openid, openid.token("carol")).admin


def test_a_client_without_user(openid):
    assert known(openid, openid.robot()).subject == "robot"


def test_another_group(openid):
    error = refused(openid, openid.token("bob"))
    assert (error.status, error.error) == (403, "insufficient_scope")
    assert "mlaas/users" in str(error)


def test_without_user_groups_every_token_is_a_users(openid):
    assert known(openid, openid.token("bob"), user_groups=[]).roles == {"user"}


def test_a_group_is_matched_whole(openid):
    for group in ("/mlaas/users/x", "/mlaas", "/MLAAS/users", "x/mlaas/users", "/mlaas/users "):
        assert refused(openid, openid.sign(**{"wlcg.groups": [group]})).status == 403
    assert refused(openid, openid.sign(**{"wlcg.groups": "/mlaas/users /other"})).status == 403
    assert known(openid, openid.sign(**{"wlcg.groups": "/mlaas/users"})).groups == {"/mlaas/users"}
    assert known(openid, openid.sign(**{"wlcg.groups": [1, None, {}, "mlaas/users"]})).groups == {"mlaas/users"}


def test_the_first_claim_of_groups_counts(openid):
    token = openid.sign(**{"wlcg.groups": ["/other"], "groups": ["/mlaas/users"]})
    assert refused(openid, token).status == 403
    assert known(openid, token, oidc_groups_claims=["groups"]).roles == {"user"}
    nested = openid.sign(realm={"roles": ["/mlaas/users"]}, without=("wlcg.groups",))
    assert known(openid, nested, oidc_groups_claims=["realm.roles"]).roles == {"user"}


BAD_TIMES = {
    "has expired": {"exp": -61},
    "not valid yet": {"nbf": 120},
    "is not valid yet; is this machine's clock right": {"iat": 120},
}


@pytest.mark.parametrize("sentence", BAD_TIMES)
def test_times(openid, sentence):
    claims = {name: int(time.time()) + seconds for name, seconds in BAD_TIMES[sentence].items()}
    error = refused(openid, openid.sign(**claims))
    assert sentence in str(error)
    assert (error.status, error.error) == (401, "invalid_token")


def test_clocks_may_differ(openid):
    now = int(time.time())
    for claims in ({"exp": now - 30}, {"nbf": now + 30}, {"iat": now + 30}):
        token = openid.sign(**claims)
        assert known(openid, token).subject == "alice"
        assert refused(openid, token, oidc_leeway=5).status == 401


def test_audiences(openid):
    assert "another audience (this service: mlaas, https" in str(refused(openid, openid.sign(aud="other")))
    assert "another audience" in str(refused(openid, openid.sign(aud=["mlaas2", "x"])))
    assert known(openid, openid.sign(aud=["other", "https://wlcg.cern.ch/jwt/v1/any"])).subject == "alice"


@pytest.mark.parametrize("claim", ["aud", "exp", "sub"])
def test_claims_that_must_be_there(openid, claim):
    assert f"no claim '{claim}'" in str(refused(openid, openid.sign(without=(claim,))))


@pytest.mark.parametrize("claims", [{"exp": "soon"}, {"exp": None}, {"sub": 5}, {"sub": ""}, {"nbf": []}, {"aud": 7}, {"iat": {}}], ids=str)
def test_claims_of_the_wrong_type(openid, claims):
    assert refused(openid, openid.sign(**claims)).status == 401


def test_other_issuers(openid):
    for issuer in ("https://evil.example.org", openid.url + "/", openid.url.upper(), None, 5, ["x"], {}):
        assert "an issuer that is not trusted" in str(refused(openid, openid.sign(iss=issuer)))


def test_a_second_issuer_cannot_speak_for_the_first(openid):
    with provider() as other:
        token = other.sign(iss=openid.url)
        assert refused(openid, token, oidc_issuers=[openid.url, other.url]).status == 401
        mine, theirs = (known(openid, found.token(), oidc_issuers=[openid.url, other.url]) for found in (openid, other))
        assert mine.tenant != theirs.tenant


def encoded(part):
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def unsigned(claims, header):
    return ".".join([encoded(json.dumps(header).encode()), encoded(json.dumps(claims).encode()), ""])


def with_secret(claims, header, secret):
    text = unsigned(claims, {"alg": "HS256"} | header)[:-1]
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), 'sha256'))}"


def test_unsigned(openid):
    claims = jwt.decode(openid.token(), options={"verify_signature": False})
    for algorithm in ("none", "None", "nOnE", "", None, 1, ["RS256"]):
        assert refused(openid, unsigned(claims, {"alg": algorithm, "kid": "test-1"})).status == 401
    assert "signature" in str(refused(openid, unsigned(claims, {"alg": "RS256", "kid": "test-1"})))


def test_tampered(openid):
    header, _, signature = openid.token("alice").split(".")
    claims = jwt.decode(openid.token("alice"), options={"verify_signature": False}) | {"wlcg.groups": ["/mlaas/admins", "/mlaas/users"]}
    assert "signature is wrong" in str(refused(openid, f"{header}.{encoded(json.dumps(claims).encode())}.{signature}"))


def test_signed_with_the_public_key_as_a_secret():
    with provider() as own:
        public = own.rotate()["public"]
        key = jwt.PyJWK(public).key
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        claims = jwt.decode(own.token(), options={"verify_signature": False})
        for secret in (pem, json.dumps(public).encode(), key.public_numbers().n.to_bytes(256, "big"), KEY, b""):
            token = with_secret(claims, {"kid": public["kid"]}, secret)
            assert "algorithm is not accepted" in str(refused(own, token))


def test_a_key_that_the_token_brings_along(openid):
    own = rsa.generate_private_key(65537, 2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key()))
    claims = jwt.decode(openid.token(), options={"verify_signature": False})
    for header in ({"kid": "test-1", "jwk": public}, {"jku": "http://127.0.0.1:1/keys", "kid": "mine"}, {"jwk": public}):
        assert refused(openid, jwt.encode(claims, own, algorithm="RS256", headers=header)).status == 401


def test_a_token_that_names_no_key(openid):
    header = {"kid": None}
    assert refused(openid, openid.sign(header=header)).status == 401
    claims = jwt.decode(openid.token(), options={"verify_signature": False})
    assert known(openid, openid.sign(header={"typ": "JWT"}, **claims)).subject == "alice"


def test_extensions_that_must_be_understood(openid):
    assert refused(openid, openid.token()[:-4] + "AAAA").status == 401
    claims = jwt.decode(openid.token(), options={"verify_signature": False})
    assert refused(openid, unsigned(claims, {"alg": "RS256", "crit": ["x"], "x": 1})).status == 401


@pytest.mark.parametrize(
    "token",
    ["x", "opaque-token-of-another-kind", "a.b.c", "..", "eyJhbGciOiJSUzI1NiJ9..", "eyJ" + "A" * 100, "é" * 30, "a b", "a\nb", "[" * 10_000],
    ids=lambda token: token[:12],
)
def test_what_is_no_token(openid, token):
    assert refused(openid, token).status == 401


def test_a_payload_that_is_nested_too_deep(openid):
    deep = encoded(b"[" * 9000)
    assert refused(openid, f"eyJhbGciOiJSUzI1NiJ9.{deep}.AAAA").status == 401
    assert refused(openid, f"{deep}.eyJ9.AAAA").status == 401


def test_a_token_that_is_too_long(openid):
    assert f"longer than {LONGEST}" in str(refused(openid, openid.sign(filler="x" * LONGEST)))
    assert known(openid, openid.sign(**{"wlcg.groups": ["/mlaas/users", *(f"/cms/group-{n}" for n in range(300))]})).subject == "alice"


def test_another_algorithm_of_the_same_family():
    with provider(ALG="ES256") as own:
        assert known(own, own.token()).subject == "alice"
        assert "not accepted (accepted: RS256)" in str(refused(own, own.token(), oidc_algorithms=["RS256"]))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_rotation_is_noticed_and_unknown_keys_do_not_make_requests():
    with provider() as own:
        first = own.token()
        found = door(own)
        clock = found._oidc.issuers[own.url]._clock = Clock()

        async def story():
            assert (await found.authenticate(first)).subject == "alice"
            asked = own.requests("/jwks")
            own.rotate()
            second = own.token("carol")
            clock.now += 61
            assert (await found.authenticate(second)).subject == "carol"
            assert own.requests("/jwks") == asked + 1
            strange = [own.sign(header={"kid": f"unknown-{n}"}) for n in range(20)]
            with pytest.raises(AuthError, match="a key that its issuer does not have"):
                await found.authenticate(strange[0])
            clock.now += 61
            answers = await asyncio.gather(*(found.authenticate(token) for token in strange), return_exceptions=True)
            assert all(isinstance(answer, AuthError) for answer in answers)
            assert own.requests("/jwks") == asked + 2
            found._known.clear()
            with pytest.raises(AuthError, match="a key that its issuer does not have"):
                await found.authenticate(first)

        asyncio.run(story())


def test_keys_outlive_an_outage():
    with provider() as own:
        tokens = [own.token() for _ in range(3)]
        found = door(own)
        issuer = found._oidc.issuers[own.url]
        clock = issuer._clock = Clock()

        async def story():
            own.down()
            with pytest.raises(AuthError, match="cannot be had at the moment") as caught:
                await found.authenticate(tokens[0])
            assert caught.value.status == 503
            own.down(False)
            clock.now += 10
            assert (await found.authenticate(tokens[0])).subject == "alice"
            own.down()
            clock.now += 7200
            assert (await found.authenticate(tokens[1])).subject == "alice"
            await issuer._fetching
            assert (await found.authenticate(tokens[2])).subject == "alice"

        asyncio.run(story())


def test_a_stale_key_set_is_fetched_without_anybody_waiting():
    with provider() as own:
        tokens = [own.token() for _ in range(3)]
        found = door(own)
        issuer = found._oidc.issuers[own.url]
        clock = issuer._clock = Clock()

        async def story():
            await found.authenticate(tokens[0])
            own.rotate()
            clock.now += 7200
            await found.authenticate(tokens[1])
            await issuer._fetching
            with pytest.raises(AuthError):
                await found.authenticate(tokens[2])

        asyncio.run(story())


def test_an_issuer_that_is_not_there():
    missing = type("Missing", (), {"url": "http://127.0.0.1:9"})
    token = jwt.encode({"iss": missing.url}, rsa.generate_private_key(65537, 2048), algorithm="RS256")
    assert refused(missing, token).status == 503


def test_a_provider_that_calls_itself_something_else(openid):
    port = openid.url.rpartition(":")[2]
    alias = type("Alias", (), {"url": f"http://localhost:{port}"})
    assert refused(alias, openid.sign(iss=alias.url)).status == 503


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"oidc_issuers": []}, "MLAAS_OIDC_ISSUERS: name at least one"),
        ({"oidc_audiences": []}, "MLAAS_OIDC_AUDIENCES: name at least one"),
        ({"oidc_algorithms": ["RS256", "HS256"]}, "MLAAS_OIDC_ALGORITHMS: HS256 is not possible"),
        ({"oidc_algorithms": ["none"]}, "MLAAS_OIDC_ALGORITHMS: none is not possible"),
        ({"oidc_algorithms": []}, "an empty list"),
        ({"oidc_issuers": ["http://iam.example.org"]}, "must be an https:// URL"),
        ({"oidc_issuers": ["iam.example.org"]}, "must be an https:// URL"),
        ({"oidc_issuers": ["https://user:secret@iam.example.org"]}, "must be an https:// URL"),
        ({"oidc_issuers": ["http://127.0.0.1.example.org"]}, "must be an https:// URL"),
    ],
)
def test_settings_that_cannot_be_meant(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        Oidc(settings(type("Any", (), {"url": "https://x"}), **changes))
