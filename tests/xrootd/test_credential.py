"""The X.509 proxy is made, renewed while files are read, and its end is told before and when it comes."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from tests.support.origin import GROUP, PASSPHRASE, Origin, events
from tests.support.ports import free_port
from tests.xrootd.chain import Proxy, Renewer, read, run, watched

X = sum(range(1000))
MINUTE = {"xrootd_credential_hours": 1 / 60, "xrootd_renew_hours": 1 / 120}


@pytest.fixture(scope="module")
def short(rendered, origin):
    """A credential of one minute, and nothing that renews it yet."""
    return rendered("short", made=False, xrootd_permit=[f"localhost:{origin.port}"], **MINUTE)


def keep(rendered, name, text):
    """Put another secret in the place of one."""
    path = rendered.secrets / name
    path.unlink(missing_ok=True)
    path.write_text(text)
    shutil.chown(path, 10003, 10003)
    path.chmod(0o400)


def test_it_is_renewed_while_files_are_read_and_its_end_is_told(place, short, rendered, origin):
    """Reads go on past the life of the first credential; beside it a proxy whose credential nobody renews."""
    stale = rendered("stale", xrootd_permit=[f"localhost:{origin.port}"], **MINUTE)
    ends = time.monotonic() + 62
    file = f"{origin.url}//store/x.root"
    assert run(short, "health").stdout == "the X.509 proxy has not been made yet\n"
    with Proxy(short, free_port()) as fresh, Proxy(stale, free_port()) as left:
        with Renewer(short) as renewer:
            renewer.wait('"renewed: valid for')
            first = (short.credential / "x509up").read_bytes()
            assert read(place, fresh.through(file), left.through(file)) == [X, X]
            while time.monotonic() < ends:
                assert read(place, fresh.through(file)) == [X]
                time.sleep(3)
            renewer.wait('"renewed: valid for', 2)
            assert run(short, "health", "--port", str(fresh.port)).returncode == 0
        assert (short.credential / "x509up").read_bytes() != first
        assert (short.credential / "x509up").stat().st_mode & 0o777 == 0o400
        assert [path.name for path in short.credential.iterdir() if path.name.startswith(".")] == []
        with pytest.raises(AssertionError):
            read(place, left.through(file))
        told = run(stale, "health", "--port", str(left.port))
        assert told.returncode == 1
        assert told.stdout.startswith("the X.509 proxy expired ")
        assert PASSPHRASE not in renewer.log.read_text() + fresh.log.read_text()


def test_a_hangup_renews_at_once(short):
    with Renewer(short) as renewer:
        before = renewer.log.read_text().count('"renewed: valid for')
        renewer.hangup()
        renewer.wait('"renewed: valid for', before + 1)
        began = time.monotonic()
    assert time.monotonic() - began < 3  # it ends at once


def test_no_secret_is_seen_by_others(short):
    with watched(PASSPHRASE) as found:
        for _ in range(3):
            assert run(short, "renew", "--once").returncode == 0
    assert found == []
    assert all(path.stat().st_mode & 0o377 == 0 and path.stat().st_uid == 10003 for path in short.secrets.iterdir())
    assert short.secrets.stat().st_mode & 0o777 == 0o500


@pytest.fixture
def mended(rendered, origin):
    """A configuration with a good credential, whose secrets a test may spoil."""
    return rendered("mended", xrootd_permit=[f"localhost:{origin.port}"])


@pytest.mark.parametrize("case", ["passphrase", "missing passphrase", "key", "expired", "gone"])
def test_a_renewal_that_fails_says_why(mended, authority, case):
    expired, another = authority.user("Expired", days=-1), authority.user("Another")
    match case:
        case "passphrase":
            keep(mended, "passphrase", "wrong")
            sentence = "the passphrase does not open the robot's key"
        case "missing passphrase":
            (mended.secrets / "passphrase").unlink()
            sentence = "the robot's key needs a passphrase, or is damaged"
        case "key":
            keep(mended, "key", another.key.read_text())
            sentence = "voms-proxy-init failed: user key and certificate don't match"
        case "expired":
            keep(mended, "certificate", expired.certificate.read_text())
            sentence = "the robot certificate expired on 20"
        case "gone":
            (mended.secrets / "certificate").unlink()
            sentence = f"the robot's certificate is missing ({mended.secrets}/certificate)"
    done = run(mended, "renew", "--once")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["message"].startswith(f"renewal failed: {sentence}")
    assert "wrong" not in done.stdout
    renewer = run(mended, "health")
    assert renewer.returncode == 1
    assert f"; the last renewal failed: {sentence}" in renewer.stdout
    # the old one is there, and the proxy reads with it
    (mended.folder / "elsewhere").mkdir(exist_ok=True)
    with Proxy(mended, free_port()) as proxy:
        told = run(mended, "health", "--port", str(proxy.port))
        assert told.returncode == 0
        assert f"; the last renewal failed: {sentence}" in told.stdout
    assert run(mended, "health", "--port", str(free_port())).stdout.startswith("the proxy does not answer on port")


def test_the_renewer_goes_on_after_a_failure(mended):
    keep(mended, "passphrase", "wrong")
    with Renewer(mended) as renewer:
        renewer.hangup()
        renewer.wait("the passphrase does not open the robot's key")
        keep(mended, "passphrase", PASSPHRASE)
        renewer.hangup()
        renewer.wait('"renewed: valid for')
    assert run(mended, "health").returncode == 0


def test_a_key_without_a_passphrase(rendered, authority, origin):
    plain = authority.user("Plain")
    found = rendered("plain", xrootd_permit=["h"], xrootd_certificate=str(plain.certificate), xrootd_key=plain.key.read_text(), xrootd_passphrase="")
    assert run(found, "health").returncode == 0
    assert sorted(path.name for path in found.secrets.iterdir()) == ["certificate", "key"]


def test_voms_attributes_open_an_origin_that_demands_a_group(place, rendered, authority, robot, origin, organisation):
    made = Origin(place / "voms", authority, port=free_port(), demand="voms", vomsdir=organisation.vomsdir)
    events(made.store / "x.root").chmod(0o644)
    permitted = {"xrootd_permit": [f"localhost:{made.port}"]}
    with made:
        without = rendered("without-voms", **permitted)
        with Proxy(without, free_port()) as proxy, pytest.raises(AssertionError):
            read(place, proxy.through(f"{made.url}//store/x.root"))
        having = rendered("voms-proxy", xrootd_voms=[f"testvo:{GROUP}"], xrootd_voms_servers=[organisation.server], **permitted)
        with Proxy(having, free_port()) as proxy:
            assert read(place, proxy.through(f"{made.url}//store/x.root")) == [X]
            assert run(having, "health", "--port", str(proxy.port)).stdout.startswith("the X.509 proxy is valid for 11 h 5")
    organisation.close()
    done = run(having, "renew", "--once")
    assert done.returncode == 1
    assert "renewal failed: voms-proxy-init failed: " in done.stdout
