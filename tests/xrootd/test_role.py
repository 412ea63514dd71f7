"""The role's own tasks: what they write, that they change nothing twice, and what they refuse."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.origin import PASSPHRASE
from tests.xrootd.render import Rendered, Values, faults, play, render

VOMS = {"vo": "testvo", "host": "voms.example.org", "port": 15000, "subject": "/DC=org/CN=voms.example.org", "issuer": "/DC=org/CN=CA"}


def content(folder: Path) -> dict[str, tuple[str, str, int]]:
    """Every file below a folder: its text, mode and owner."""
    return {
        str(path.relative_to(folder)): (path.read_text(), oct(path.stat().st_mode), path.stat().st_uid)
        for path in folder.rglob("*")
        if path.is_file()
    }


def changed(output: str) -> int:
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def test_what_it_writes(place, authority, robot):
    authorities = place / "authorities"
    authorities.mkdir()
    for path in authority.certificates.iterdir():  # as distributions do: links to files elsewhere
        (authorities / path.name).symlink_to(path)
    variables = {
        "xrootd_permit": ["eospublic.cern.ch//eos/opendata", "root://h.example.org:1095"],
        "xrootd_credential": "x509",
        "xrootd_certificate": str(robot.certificate),
        "xrootd_key": robot.key.read_text(),
        "xrootd_passphrase": PASSPHRASE,
        "xrootd_voms": ["testvo:/testvo/mlaas"],
        "xrootd_voms_servers": [VOMS],
        "xrootd_certificates": str(authorities),
    }
    folder = place / "played"
    tried = play(folder, "--check", **variables)  # on a machine where nothing is there yet
    assert tried.returncode == 0, tried.stdout
    assert not (folder / "config" / "xrootd").exists()
    done = play(folder, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    for secret in (PASSPHRASE, robot.key.read_text().splitlines()[3]):
        assert secret not in done.stdout + done.stderr
    written = Rendered(folder)
    expected = Rendered(place / "expected")
    render(expected.folder, **variables)
    # the role's names of its folders stand in its files
    same = {name: (text.replace(str(expected.folder), str(folder)), *rest) for name, (text, *rest) in content(expected.folder / "config").items()}
    assert content(folder / "config") == same
    for path in (written.secrets, written.credential, written.cache):
        assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (10003, 0)
    fragment = (folder / "opt" / "env.d" / "50-xrootd.env").read_text()
    assert "PROFILE_XROOTD=xrootd\nPROFILE_RENEWER=renewer\n" in fragment

    again = play(folder, "--diff", **variables)
    assert changed(again.stdout) == 0, again.stdout
    # an authority that is gone there goes here; the services are told
    next(path for path in authorities.iterdir() if path.suffix == ".0").unlink()
    fewer = play(folder, **variables)
    assert changed(fewer.stdout) == 2, fewer.stdout
    assert len(list((written.config / "certificates").iterdir())) == len(list(authorities.iterdir()))
    assert (folder / "opt" / "env.d" / "50-xrootd.env").read_text() != fragment
    # without a credential nothing of it is left
    plain = play(folder, xrootd_permit=["eospublic.cern.ch"])
    assert plain.returncode == 0, plain.stdout
    assert list(written.secrets.iterdir()) == []
    assert list((written.config / "certificates").iterdir()) == []
    assert "PROFILE_RENEWER" not in (folder / "opt" / "env.d" / "50-xrootd.env").read_text()


def test_the_robot_may_be_on_the_host(place, authority, robot):
    given = place / "on-host"
    given.mkdir()
    for source, name in ((robot.certificate, "robotcert.pem"), (robot.key, "robotkey.pem")):
        shutil.copy(source, given / name)
    variables = {
        "xrootd_permit": ["h"],
        "xrootd_credential": "x509",
        "xrootd_certificate": str(given / "robotcert.pem"),
        "xrootd_key": str(given / "robotkey.pem"),
        "xrootd_passphrase": PASSPHRASE,
        "xrootd_files_on": "host",
    }
    tried = play(place / "host-played", "--check", **variables)
    assert tried.returncode == 0, tried.stdout
    done = play(place / "host-played", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Rendered(place / "host-played").secrets
    assert (found / "key").read_text() == robot.key.read_text()
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in found.iterdir()} == dict.fromkeys(("certificate", "key", "passphrase"), "0o400")


X509 = {"xrootd_permit": ["h"], "xrootd_credential": "x509", "xrootd_certificate": "-----BEGIN CERTIFICATE-----", "xrootd_key": "-----BEGIN X-----"}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "xrootd_permit is empty; name the origins that jobs may read"),
        ({"xrootd_mode": "origin"}, "xrootd_mode is origin; xrootd_origin must then name it"),
        ({"xrootd_permit": ["*.cern.ch"]}, "without a pattern, got: *.cern.ch"),
        ({"xrootd_permit": ["http://h"]}, "an origin is host, host:port"),
        ({"xrootd_permit": ["h/a b"]}, "an origin is host, host:port"),
        ({"xrootd_permit": ["h/eos/../x"]}, "an origin is host, host:port"),
        ({"xrootd_permit": ["h rl /root: rl"]}, "an origin is host, host:port"),
        ({"xrootd_permit": ["h\n"]}, "an origin is host, host:port"),
        ({"xrootd_mode": "origin", "xrootd_origin": "h:1094/store"}, "what may be read there is xrootd_paths"),
        *(
            (
                {"xrootd_mode": "origin", "xrootd_origin": "h", "xrootd_paths": [path]},
                f"xrootd_paths must be folders of the origin such as /store, without blanks, colons, .. or //, and not /, got: {path}",
            )
            for path in ("store", "/", "//store", "/store/../x", "/xroot:/h", "/a b", "/store\n")
        ),
        (
            {"xrootd_mode": "origin", "xrootd_origin": "h", "xrootd_paths": []},
            "and not /, got: nothing",
        ),
        ({"xrootd_permit": ["a", "b"], "xrootd_cache": True}, "the cache knows files by their path alone"),
        ({"xrootd_permit": ["a:1", "root://a:2"], "xrootd_cache": "true"}, "the cache knows files by their path alone"),
        ({"xrootd_permit": ["a"], "xrootd_cache": True, "xrootd_cache_memory": "600GB"}, "xrootd_cache_memory must be from 1GB to 256GB"),
        ({"xrootd_permit": ["a"], "xrootd_cache_size": "much"}, "these must be sizes such as 1GB or 4GB: xrootd_cache_size"),
        ({"xrootd_permit": ["a"], "xrootd_cache": True, "xrootd_cache_size": "0GB"}, "xrootd_cache_size must be at least 1GB"),
        (X509 | {"xrootd_renew_hours": 12}, "xrootd_renew_hours (12) must be less than xrootd_credential_hours (12)"),
        (X509 | {"xrootd_key": ""}, "xrootd_credential is x509; xrootd_certificate and xrootd_key must then be given"),
        (X509 | {"xrootd_key": "/no/key.pem"}, "neither a PEM text nor a file of the controller: xrootd_key"),
        (X509 | {"xrootd_files_on": "host", "xrootd_key": "key.pem"}, "xrootd_certificate and xrootd_key must then be absolute paths"),
        (X509 | {"xrootd_voms": ["cms:/cms"]}, "xrootd_voms_servers has no server of cms"),
        ({"xrootd_permit": ["h"], "xrootd_voms": ["cms"], "xrootd_voms_servers": [VOMS]}, "xrootd_voms needs xrootd_credential: x509"),
        ({"xrootd_permit": ["h"], "xrootd_credential": "token"}, "xrootd_token_issuer (https://...) and xrootd_token_client_id must then be given"),
        ({"xrootd_permit": ["h"], "xrootd_certificates": "certificates"}, "xrootd_certificates must be a folder of the host"),
        ({"xrootd_permit": ["h"], "xrootd_connect_timeout": "0"}, "must be more than 0 seconds"),
    ],
)
def test_what_it_refuses(variables, sentence):
    assert any(sentence in said for said in faults(**variables)), faults(**variables)


@pytest.mark.parametrize("entry", ["eospublic.cern.ch", "h:1095", "root://h//eos/opendata", "roots://h:1094", "h/eos/a-b_c/", "192.0.2.7:1094"])
def test_what_it_takes(entry):
    assert faults(xrootd_permit=[entry]) == []


def test_a_permitted_path_ends_with_a_slash():
    """As a prefix, /store alone would permit /storeprivate, too."""
    origin = {"xrootd_mode": "origin", "xrootd_origin": "h", "xrootd_paths": ["/store", "/eos/a/"]}
    for variables in (origin, {"xrootd_permit": ["h", "h//eos/opendata", "roots://h:1095/store/"]}):
        paths = re.findall(r"^  (\S+) rl", Values(**variables).text("authdb"), re.M)
        assert paths
        assert all(re.search(r"[^/]/$", path) for path in paths), paths


@pytest.mark.parametrize(("case", "sentence"), [
    ("passphrase", "xrootd_passphrase does not open xrootd_key, or that is no PEM key"),
    ("no passphrase", "xrootd_key needs xrootd_passphrase, or is no PEM key"),
    ("other key", "xrootd_key does not belong to xrootd_certificate"),
    ("expired", "xrootd_certificate expired on "),
    ("no certificate", "xrootd_certificate is no PEM certificate, or not there"),
    ("authorities", "holds no certificates with hash links"),
])  # fmt: skip
def test_a_robot_that_cannot_work(place, authority, robot, case, sentence):
    variables = {"xrootd_permit": ["h"], "xrootd_credential": "x509", "xrootd_passphrase": PASSPHRASE}
    variables |= {"xrootd_certificate": str(robot.certificate), "xrootd_key": str(robot.key)}
    match case:
        case "passphrase":
            variables["xrootd_passphrase"] = "wrong"  # noqa: S105
        case "no passphrase":
            variables["xrootd_passphrase"] = ""
        case "other key":
            variables["xrootd_key"] = authority.user("Other").key.read_text()
        case "expired":
            pair = authority.user("Past", days=-1)
            variables |= {"xrootd_certificate": str(pair.certificate), "xrootd_key": str(pair.key), "xrootd_passphrase": ""}
        case "no certificate":
            variables["xrootd_certificate"] = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
        case "authorities":
            variables["xrootd_certificates"] = str(place)
    done = play(place / f"robot-{case.replace(' ', '-')}", **variables, steps=("preflight",))
    assert done.returncode != 0
    assert sentence in done.stdout
    assert PASSPHRASE not in done.stdout
