"""Certificates by ACME, from the test server pebble, with certbot as it is on the host."""

from __future__ import annotations

import functools
import http.server
import threading
import time

import pytest

from tests.tls.conftest import EAB_KEY, SECONDS

pytestmark = pytest.mark.needs("pebble", "certbot")


def test_issue_renew_and_a_server_that_is_away(site, pebble):
    pebble.serve(site)
    said = site.renew()
    issued = time.monotonic()
    assert said.startswith("changed: mlaas.example.org, www.example.org; issued by CN=Pebble Intermediate CA")
    first = site.leaf
    assert site.renew() == "unchanged"
    assert (site.folder / "tls" / "ca.pem").read_text() == ""

    time.sleep(max(0.0, SECONDS * 2 / 3 + 1 - (time.monotonic() - issued)))
    assert site.renew().startswith("changed:")
    second, issued = site.leaf, time.monotonic()
    assert second != first
    assert second.public_key() != first.public_key()

    pebble.stop()
    time.sleep(max(0.0, SECONDS * 2 / 3 + 1 - (time.monotonic() - issued)))
    said = site.renew(status=3)
    assert f"no certificate from {pebble.directory} (it ends in 0.0 days):" in said
    assert "the old one stays and holds until " in said
    assert said.count("\n") == 0
    assert site.leaf == second

    site.conf["names"] = ["new.example.org"]
    assert "the old one" not in site.renew(status=1)  # it does not hold for the new name
    assert site.leaf == second

    pebble.start()  # its accounts are gone
    assert site.renew().startswith("changed: new.example.org;")


def test_the_way_from_self_signed(site, pebble):
    site.renew()
    first = site.leaf
    pebble.serve(site)
    assert site.renew().startswith("changed: mlaas.example.org, www.example.org;")
    assert site.leaf != first


def test_a_fetched_one_that_was_not_put_in_place(site, pebble):
    pebble.settings["certificateValidityPeriod"] = 86400
    pebble.settings["profiles"]["default"]["validityPeriod"] = 86400
    pebble.stop()
    pebble.start()
    pebble.serve(site)
    site.renew()
    (site.folder / "tls" / "..data").unlink()  # as if the machine had stopped between the two
    pebble.stop()
    assert site.renew().startswith("changed:")


def test_a_name_that_is_not_ours(site, pebble):
    pebble.serve(site, tls_acme_port=pebble.settings["tlsPort"])  # the server looks at another port: nobody answers
    said = site.renew(status=1)
    assert "mlaas.example.org" in said
    assert "connection refused" in said.lower()
    assert not (site.folder / "tls" / "fullchain.pem").exists()


def test_an_unknown_ca_of_the_server(site, pebble):
    pebble.serve(site)
    site.conf["acme"]["trust"] = ""
    assert "certificate verify failed" in site.renew(status=1)


def test_what_the_server_refuses(site, pebble):
    pebble.stop()
    pebble.settings["domainBlocklist"] = ["mlaas.example.org"]
    pebble.start()
    pebble.serve(site)
    assert "rejectedIdentifier" in site.renew(status=1)


def test_an_address(site, pebble):
    pebble.serve(site)
    site.conf["names"] = ["192.0.2.7"]
    assert site.renew(status=1).startswith("ACME gives no certificate for the address 192.0.2.7")


def test_external_account_binding(site, pebble):
    pebble.stop()
    pebble.settings |= {"externalAccountBindingRequired": True, "externalAccountMACKeys": {"kid-1": EAB_KEY}}
    pebble.start()
    pebble.serve(site)
    refused = site.renew(status=1)
    assert "external account" in refused.lower()
    pebble.serve(site, tls_acme_eab_key_id="kid-1", tls_acme_eab_key=EAB_KEY)
    assert site.renew().startswith("changed:")
    assert EAB_KEY not in "".join(path.read_text() for path in (site.folder / "log").glob("*"))


def test_a_web_server_that_is_there_already(site, pebble, tmp_path):
    root = tmp_path / "www"
    root.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", pebble.http), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        pebble.serve(site, tls_acme_challenge="webroot", tls_acme_webroot=str(root))
        assert site.renew().startswith("changed:")
        server.shutdown()
        thread.join()
