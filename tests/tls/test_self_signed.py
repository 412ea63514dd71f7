"""Certificates that the site signs itself, and how a set of files is swapped."""

from __future__ import annotations

import os
import socket
import ssl
import threading

import pytest


def handshake(folder, name):
    """What a client that trusts ca.pem only says of a server with this certificate, asked for by `name`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(10)

    def answer():
        connection = listening.accept()[0]
        try:
            server.wrap_socket(connection, server_side=True).close()
        except (ssl.SSLError, OSError):
            connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    client = ssl.create_default_context(cafile=folder / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        with socket.create_connection(listening.getsockname()) as plain, client.wrap_socket(plain, server_hostname=name):
            return "good"
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        thread.join()
        listening.close()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_a_client_accepts_it(site, kind):
    site.conf["key_type"] = kind
    assert site.renew().startswith("changed: mlaas.example.org, localhost, 127.0.0.1, ::1; issued by CN=MLaaS4HEP CA")
    folder = site.folder / "tls"
    assert [handshake(folder, name) for name in ("mlaas.example.org", "localhost", "127.0.0.1", "::1")] == ["good"] * 4
    assert "mismatch" in handshake(folder, "other.example.org")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*.pem")}
    assert modes == {"fullchain.pem": 0o444, "privkey.pem": 0o440, "ca.pem": 0o444}
    assert (site.folder / "tls-ca" / "ca.key").stat().st_mode & 0o777 == 0o400
    assert (site.folder / "tls-ca").stat().st_mode & 0o777 == 0o700


def test_it_is_made_once(site):
    site.renew()
    leaf, data = site.leaf, (site.folder / "tls" / "..data").readlink()
    assert site.renew() == "unchanged"
    assert site.leaf == leaf
    assert (site.folder / "tls" / "..data").readlink() == data


def test_it_is_renewed_before_its_end(site):
    site.conf["renew_days"] = 30
    site.conf["days"] = 31
    site.renew()
    leaf, ca = site.leaf, (site.folder / "tls" / "ca.pem").read_text()
    assert site.renew() == "unchanged"  # the last third of a short life, not 30 of 31 days
    site.conf["days"] = 0.0003  # 26 s, and an hour before now: the last third has begun
    site.conf["names"].append("second.example.org")
    site.renew()
    assert site.leaf != leaf
    site.conf["days"] = 31
    assert site.renew().startswith("changed:")
    assert ca.strip() in (site.folder / "tls" / "ca.pem").read_text()  # clients that trust the old CA learn the new one beside it


def test_the_ca_signs_for_this_host_only(site):
    site.renew()
    first = (site.folder / "tls-ca" / "ca.pem").read_text()
    site.conf["names"].remove("localhost")
    site.renew()
    assert (site.folder / "tls-ca" / "ca.pem").read_text() == first  # fewer names: the same CA
    site.conf["names"][0] = "new.example.com"
    site.renew()
    assert (site.folder / "tls-ca" / "ca.pem").read_text() != first
    bundle = (site.folder / "tls" / "ca.pem").read_text()
    assert bundle.count("BEGIN CERTIFICATE") == 2
    assert handshake(site.folder / "tls", "new.example.com") == "good"


def test_certificate_and_key_fit_at_every_moment(site):
    site.renew()
    folder, wrong, done = site.folder / "tls", [], threading.Event()

    def read():
        while not done.is_set():
            held = os.open(folder / "..data", os.O_RDONLY | os.O_DIRECTORY)  # what a program sees that opens all at one moment
            try:
                names = sorted(os.listdir(held))  # noqa: PTH208
                if names and names != ["ca.pem", "fullchain.pem", "origin.json", "privkey.pem"]:
                    wrong.append(names)
            finally:
                os.close(held)
            if not (folder / "fullchain.pem").exists() or not (folder / "privkey.pem").exists():
                wrong.append("a file is missing")

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(5):
        site.conf["names"][0] = f"host{number}.example.org"
        site.renew()
    done.set()
    thread.join()
    assert not wrong
    assert len(list(folder.glob("..set-*"))) == 2  # and the one before


def test_two_at_once(site):
    results = []
    threads = [threading.Thread(target=lambda: results.append(site.renew())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.split(":")[0] for result in results) == ["changed", "unchanged", "unchanged"]


def test_files_of_another_make_are_replaced(site):
    folder = site.folder / "tls"
    folder.mkdir()
    (folder / "fullchain.pem").write_text("damaged")
    assert site.renew().startswith("changed:")
    assert handshake(folder, "localhost") == "good"


def test_show(site):
    site.renew()
    assert "397 days" in site.run("show").stdout or "396 days" in site.run("show").stdout


def test_before_there_is_one(site):
    done = site.run("show")
    assert done.returncode == 1
    assert "fullchain.pem: No such file" in done.stderr
