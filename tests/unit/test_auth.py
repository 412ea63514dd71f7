"""Secrets in files, groups and roles, sessions, calls between the parts, the embedded token."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mlaas.auth import internal, secrets, session
from mlaas.auth.authenticator import LOCAL, Authenticator
from mlaas.auth.errors import AuthError
from mlaas.auth.groups import groups_of, roles_of, scopes_of
from mlaas.auth.identity import Identity, tenant_of
from mlaas.auth.oidc import Oidc
from mlaas.errors import UserError
from mlaas.places import Places
from mlaas.settings import Settings

KEY = b"k" * 48
ALICE = Identity("alice-1", "alice", "https://iam.example.org", "Alice", frozenset({"/cms"}), frozenset({"user"}), frozenset({"compute.read"}))


@pytest.fixture
def site(tmp_path):
    found = Settings(data=tmp_path / "data")
    return found, Places.of(found)


def test_a_secret_is_made_once(site):
    token = secrets.embedded_token(*site)
    assert token.startswith("mlaas_")
    assert len(token) > 40
    assert secrets.embedded_token(*site) == token
    assert secrets.service_key(*site) != token.encode()
    folder = site[1].secrets
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["service-key", "token"]


def test_who_starts_together_gets_the_same_secret(site):
    found = []
    threads = [threading.Thread(target=lambda: found.append(secrets.service_key(*site))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    assert len(list(site[1].secrets.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_secret_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "token"
    path.write_text("a-token-of-more-than-20-characters\n")
    path.chmod(mode)
    with pytest.raises(UserError, match=f"may be read by others \\(mode {mode:04o}\\); chmod 600"):
        secrets.read_secret(path, "the token")


def test_a_secret_that_cannot_be_used(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(UserError, match="cannot be read from"):
        secrets.read_secret(path, "the token")
    path.touch(0o600)
    with pytest.raises(UserError, match="too short: at least 20"):
        secrets.read_secret(path, "the token")
    with pytest.raises(UserError, match="is not a file"):
        secrets.read_secret(tmp_path, "the token")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UserError, match="is not a file"):
        secrets.read_secret(tmp_path / "pipe", "the token")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the service key cannot be written"):
        secrets.service_key(Settings(service_key_file=tmp_path / "file" / "key"), Places.of(Settings(data=tmp_path)))


def test_a_mounted_secret_may_be_read_by_a_group(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text("a-token-of-more-than-20-characters\n")
    path.chmod(0o440)
    root = os.stat_result((stat.S_IFREG | 0o440, *path.stat()[1:4], 0, *path.stat()[5:]))
    monkeypatch.setattr(secrets.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(secrets.os, "fstat", lambda _file: root)
    assert secrets.read_secret(path, "the token").startswith("a-token")


NAMES = st.text(st.characters(codec="utf-8"), max_size=30)


@given(NAMES, NAMES, NAMES, NAMES)
def test_tenants_are_folder_names_and_differ(issuer, subject, other_issuer, other_subject):
    tenant = tenant_of(issuer, subject)
    assert len(tenant) <= 35
    assert set(tenant) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not tenant.startswith("-")
    if "\0" not in issuer + other_issuer:
        assert (tenant == tenant_of(other_issuer, other_subject)) == ((issuer, subject) == (other_issuer, other_subject))


@pytest.mark.parametrize(
    ("claims", "groups"),
    [
        ({"wlcg.groups": ["/a", "/b"], "groups": ["c"]}, {"/a", "/b"}),
        ({"groups": "a b"}, {"a b"}),
        ({"wlcg.groups": [], "groups": ["c"]}, set()),
        ({"wlcg.groups": 5}, set()),
        ({"wlcg.groups": [["a"], {"b": 1}, None, "", "d"]}, {"d"}),
        ({"wlcg": {"groups": ["nested"]}}, {"nested"}),
        ({"wlcg": "groups"}, set()),
        ({}, set()),
    ],
)
def test_groups_of_a_token(claims, groups):
    assert groups_of(claims, ["wlcg.groups", "groups"]) == groups


@given(st.sets(st.sampled_from(["/a", "a", "/b", "b/", "//a", "A"])), st.sets(st.sampled_from(["/a", "b", "/A"])))
def test_roles_by_groups(groups, wanted):
    member = bool({group.removeprefix("/") for group in groups} & {group.removeprefix("/") for group in wanted})
    assert roles_of(groups, wanted, []) == ({"user"} if member or not wanted else set())
    assert ("admin" in roles_of(groups, ["x"], wanted)) == member


def test_scopes_of_a_token():
    assert scopes_of({"scope": "compute.read storage.read:/"}) == {"compute.read", "storage.read:/"}
    assert scopes_of({"scp": ["a", 5]}) == {"a"}
    assert scopes_of({"scope": 7}) == scopes_of({}) == set()


def test_scopes_limit_what_a_token_allows_once_it_has_any():
    assert all(replace(ALICE, scopes=frozenset({"openid"})).may(action) for action in ("create", "read", "modify", "cancel"))
    assert ALICE.may("read")
    assert not ALICE.may("create")
    assert replace(ALICE, scopes=frozenset({"compute.create:/x"})).may("create")


IDENTITIES = st.builds(
    Identity,
    tenant=NAMES,
    subject=NAMES,
    issuer=NAMES,
    name=NAMES,
    groups=st.frozensets(NAMES, max_size=5),
    roles=st.frozensets(st.sampled_from(["user", "admin"])),
    scopes=st.frozensets(NAMES, max_size=3),
)


@given(IDENTITIES)
def test_an_identity_survives_session_and_call(identity):
    assert session.unseal(session.seal(identity, KEY), KEY) == replace(identity, browser=True)
    called = internal.called(internal.call_token(identity, KEY), KEY)
    assert replace(called, expires=0.0) == identity
    assert 0 < called.expires - time.time() <= 121


def test_sessions_end_with_the_token():
    cookie = session.seal(replace(ALICE, expires=time.time() + 60), KEY)
    assert session.unseal(cookie, KEY).subject == "alice"
    assert session.unseal(session.seal(replace(ALICE, expires=time.time() - 1), KEY), KEY) is None


@pytest.mark.parametrize("cookie", ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "x" * 5000])
def test_what_is_no_session(cookie):
    assert session.unseal(cookie, KEY) is None


def test_a_session_is_of_one_service_and_for_nothing_else():
    cookie = session.seal(ALICE, KEY)
    assert session.unseal(cookie, b"another" * 8) is None
    assert session.unseal(cookie[:-5] + "AAAAA", KEY) is None
    assert session.unseal(internal.call_token(ALICE, KEY), KEY) is None
    with pytest.raises(AuthError):
        internal.called(cookie, KEY)


def test_a_session_of_somebody_in_many_groups():
    many = replace(ALICE, groups=frozenset(f"/cms/analysis/higgs-{number}" for number in range(300)))
    assert session.unseal(session.seal(many, KEY), KEY).groups == many.groups
    too_many = replace(ALICE, groups=frozenset(os.urandom(20).hex() for _ in range(300)))
    with pytest.raises(AuthError, match="too many groups"):
        session.seal(too_many, KEY)


def test_calls_between_parts_last_two_minutes():
    claims = {"iss": internal.INTERNAL, "aud": internal.INTERNAL, "iat": time.time() - 500, "exp": time.time() + 500, "z": internal.packed(ALICE)}
    token = jwt.encode(claims, secrets.derived(KEY, "internal"), algorithm="HS256", headers={"typ": internal.INTERNAL_TYPE})
    with pytest.raises(AuthError, match="between the parts"):
        internal.called(token, KEY)


def check(door, token, **options):
    return asyncio.run(door.authenticate(token, **options))


@pytest.mark.parametrize("claim", [None, "nonce", "at_hash", "c_hash"])
def test_an_id_token_is_no_access_token(monkeypatch, claim):
    """Where a client's id is the audience, signature, issuer and audience of its ID tokens are right."""
    key = Ed25519PrivateKey.generate()
    oidc = Oidc(Settings(auth="oidc", oidc_issuers=["https://iam.example.org"], oidc_audiences=["mlaas"], oidc_algorithms=["EdDSA"]))

    async def keys(*_):
        return [jwt.PyJWK.from_json(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key()), "EdDSA")]

    monkeypatch.setattr(oidc.issuers["https://iam.example.org"], "keys", keys)
    claims = {"iss": "https://iam.example.org", "sub": "alice", "aud": "mlaas", "exp": time.time() + 60} | ({claim: "x"} if claim else {})
    door = Authenticator(KEY, oidc=oidc)
    token = jwt.encode(claims, key, algorithm="EdDSA")
    if claim:
        with pytest.raises(AuthError, match="this is an ID token, which tells a client who signed in; an access token is needed"):
            check(door, token)
    else:
        assert check(door, token).subject == "alice"


def test_the_embedded_token(site):
    door = Authenticator.of(*site)
    token = secrets.embedded_token(*site)
    assert check(door, token) == LOCAL
    assert (LOCAL.tenant, LOCAL.admin) == ("local", True)
    assert check(door, token, browser=True) == replace(LOCAL, browser=True)
    for wrong in (token[:-1], token + "x", "x" * 49, "", "ü", "a b"):
        with pytest.raises(AuthError):
            check(door, wrong)


def test_the_parts_call_each_other_also_with_the_embedded_token(site):
    door, other = Authenticator.of(*site), Authenticator.of(*site)
    assert check(other, door.internal_token(ALICE)).tenant == "alice-1"
    with pytest.raises(AuthError, match="between the parts"):
        check(Authenticator(b"z" * 48, token="t" * 30), door.internal_token(ALICE))


def test_a_new_embedded_token_ends_sessions():
    before, after = Authenticator(KEY, token="t" * 30), Authenticator(KEY, token="u" * 30)
    cookie = before.seal(LOCAL)
    assert before.unseal(cookie).tenant == "local"
    assert after.unseal(cookie) is None
    assert not after.is_form_token(before.form_token(LOCAL), LOCAL)


def test_forms_belong_to_one_user():
    door = Authenticator(KEY, token="t" * 30)
    assert door.is_form_token(door.form_token(ALICE), ALICE)
    assert not door.is_form_token(door.form_token(ALICE), LOCAL)
    assert not door.is_form_token("", ALICE)
    assert not door.is_form_token("ü", ALICE)


def test_a_verified_token_is_remembered_as_long_as_it_is_valid(monkeypatch):
    door = Authenticator(KEY, token="t" * 30)
    asked = []
    expiring = replace(ALICE, expires=time.time() + 30)

    async def verify(token):
        asked.append(token)
        return expiring

    monkeypatch.setattr(door, "_verify", verify)
    assert check(door, "x") == check(door, "x") == expiring
    assert door.recall("x") == expiring
    assert door.recall("y") is None
    assert asked == ["x"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31)
    assert door.recall("x") is None


def test_challenges_are_headers():
    error = AuthError('say "no"\\ ü', error="insufficient_scope", scope="compute.read", status=403)
    assert error.challenge == 'Bearer realm="mlaas", error="insufficient_scope", error_description="say \'no\'/ ?", scope="compute.read"'
    assert AuthError("sign in", error="").challenge == 'Bearer realm="mlaas"'
