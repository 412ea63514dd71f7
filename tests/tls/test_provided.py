"""Certificates that the operator gives: what does not fit is said in a sentence each, and nothing is replaced."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.pki import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture(scope="module")
def good(authority):
    pair = authority.host("mlaas.example.org", "*.pool.example.org", days=90)
    return {"certificate": pair.certificate.read_text(), "key": pair.key.read_text(), "ca": authority.pem.read_text()}


@pytest.fixture
def given(good):
    return good | {"names": ["mlaas.example.org"]}


@pytest.fixture
def provided(site):
    site.conf |= {"source": "provided", "names": ["mlaas.example.org"]}
    return site


def sentences(site, given):
    done = site.run("check", given)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if done.stdout else 0)
    return done.stdout


def test_a_good_one(provided, given):
    assert sentences(provided, given) == ""
    assert provided.run("install", given).stdout.startswith("changed: mlaas.example.org, *.pool.example.org; issued by CN=Test CA")
    assert provided.run("install", given).stdout == "unchanged\n"
    assert provided.renew() == "unchanged"
    assert (provided.folder / "tls" / "ca.pem").read_text() == given["ca"]


def test_names(provided, given):
    given["names"] += ["a.pool.example.org", "B.pool.example.org."]
    assert sentences(provided, given) == ""
    given["names"] += ["pool.example.org", "a.b.pool.example.org", "192.0.2.7"]
    said = sentences(provided, given)
    assert "is for mlaas.example.org, *.pool.example.org, and not for pool.example.org, a.b.pool.example.org, 192.0.2.7" in said


def test_an_old_one(provided, given, authority):
    old = authority.host("mlaas.example.org", days=-1)
    given |= {"certificate": old.certificate.read_text(), "key": old.key.read_text()}
    assert "tls_certificate ended on " in sentences(provided, given)


def test_a_key_of_another(provided, given, authority):
    given["key"] = authority.host("other.example.org").key.read_text()
    assert sentences(provided, given).startswith("tls_key does not belong to tls_certificate")


def test_a_certificate_of_a_user(provided, given, authority):
    user = authority.user("Jo")
    given |= {"certificate": user.certificate.read_text(), "key": user.key.read_text()}
    said = sentences(provided, given)
    assert "tls_certificate is for no name at all, and not for mlaas.example.org" in said
    assert "is not for servers" in said


def test_a_chain_that_breaks(provided, given, tmp_path):
    other = Authority(tmp_path / "other", name="Other CA")
    again = Authority(tmp_path / "again")  # the same name, another key
    for ca in (other, again):
        assert "an intermediate certificate or the right CA is missing" in sentences(provided, given | {"ca": ca.pem.read_text()})
        assert "certificate 2 of tls_certificate did not sign" in sentences(
            provided, given | {"certificate": given["certificate"] + ca.pem.read_text()}
        )
    assert sentences(provided, given | {"certificate": given["certificate"] + given["ca"], "ca": ""}) == ""
    wrong_order = given["ca"] + given["certificate"]
    assert "the server's own certificate must come first" in sentences(provided, given | {"certificate": wrong_order})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"certificate": "nothing"}, "tls_certificate holds no certificate in PEM form"),
        ({"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "tls_certificate is damaged"),
        ({"key": "nothing"}, "tls_key holds no private key"),
        ({"key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, "tls_key holds no private key"),
        ({"ca": "nothing"}, "tls_ca holds no certificate"),
    ],
)
def test_damage(provided, given, change, sentence):
    assert sentences(provided, given | change).startswith(sentence)


def test_a_passphrase(provided, given, authority):
    key = serialization.load_pem_private_key(given["key"].encode(), None)
    locked = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))
    assert "encrypted with a passphrase" in sentences(provided, given | {"key": locked.decode()})


def test_a_wrong_one_replaces_nothing(provided, given, authority):
    provided.run("install", given)
    leaf = provided.leaf
    done = provided.run("install", given | {"key": authority.host("other.example.org").key.read_text()})
    assert done.returncode == 1
    assert "does not belong" in done.stderr
    assert "BEGIN" not in done.stdout + done.stderr
    assert provided.leaf == leaf


def test_files_of_the_host_are_read_again(provided, given, authority, tmp_path):
    for name in ("certificate", "key", "ca"):
        (tmp_path / name).write_text(given[name])
    provided.conf["files"] = {name: str(tmp_path / name) for name in ("certificate", "key")} | {"ca": ""}
    assert provided.renew().startswith("changed:")
    assert (provided.folder / "tls" / "ca.pem").read_text() == ""
    assert provided.renew() == "unchanged"
    new = authority.host("mlaas.example.org", "again.example.org", days=90)
    (tmp_path / "certificate").write_text(new.certificate.read_text())
    assert "does not belong" in provided.renew(status=1)  # the site's own renewal is half done
    (tmp_path / "key").write_text(new.key.read_text())
    assert provided.renew().startswith("changed: mlaas.example.org, again.example.org")
    (tmp_path / "key").unlink()
    assert provided.renew(status=1) == f"{tmp_path / 'key'}: No such file or directory"


def test_its_end_is_told(provided, given, authority):
    soon = authority.host("mlaas.example.org", days=5)
    provided.run("install", given | {"certificate": soon.certificate.read_text(), "key": soon.key.read_text()})
    assert provided.renew(status=3) == "the certificate ends in 5 days: provide a new one (tls_certificate, tls_key)"
