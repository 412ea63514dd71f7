"""A VOMS server that gives a robot its attributes: voms-proxy-fake signs them, and the server's protocol is what voms-proxy-init speaks."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.support.pki import Authority, Pair

VO = "testvo"
ATTRIBUTES = x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")


class Organisation:
    """The organisation VO with a server on loopback, which knows one robot and puts it into one group."""

    def __init__(self, folder: Path, authority: Authority, robot: Pair, passphrase: str, group: str) -> None:
        self._host = authority.host("localhost")
        self._folder, self._group = folder, group
        folder.mkdir()
        self._certificate, self._key = folder / "robot.pem", folder / "robot.key"
        self._certificate.write_bytes(robot.certificate.read_bytes())
        key = serialization.load_pem_private_key(robot.key.read_bytes(), passphrase.encode())
        self._key.touch(0o600)
        self._key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        )
        self._certificates = authority.certificates
        self.vomsdir = folder / "vomsdir"
        (self.vomsdir / VO).mkdir(parents=True)
        (self.vomsdir / VO / "localhost.lsc").write_text(f"{self._host.subject}\n{authority.subject}\n")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._host.certificate, self._host.key)
        self._socket = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = int(self._socket.getsockname()[1])
        self.server = {"vo": VO, "host": "localhost", "port": self.port, "subject": self._host.subject, "issuer": authority.subject}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        with socket.socket() as last:
            self._over = True
            last.connect_ex(("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()

    _over = False

    def _serve(self) -> None:
        while not self._over:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # who does not like our certificate
                continue
            with connection:
                connection.settimeout(10)
                asked = b""
                while b"\n\n" not in asked and (part := connection.recv(8192)):  # a single 0 comes before
                    asked += part
                if b"GET /generate-ac?fqans=" in asked:
                    text = base64.encodebytes(self._attributes()).decode()  # in lines, as OpenSSL wants it
                    document = f'<?xml version="1.0" encoding="US-ASCII"?><voms><ac>{text}</ac></voms>'
                    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n{document}".encode())

    def _attributes(self) -> bytes:
        """A signed attribute certificate (DER)."""
        made = self._folder / "fake"
        command = ["voms-proxy-fake", "-quiet", "-rfc", "-newformat", "-hours", "24", "-bits", "2048", "-out", made]
        command += ["-cert", self._certificate, "-key", self._key, "-certdir", self._certificates]
        command += ["-hostcert", self._host.certificate, "-hostkey", self._host.key]
        command += ["-voms", VO, "-uri", f"localhost:{self.port}", "-fqan", f"{self._group}/Role=NULL/Capability=NULL"]
        done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
        assert made.exists(), done.stderr
        proxy = x509.load_pem_x509_certificate(made.read_bytes())
        made.unlink()
        extension = proxy.extensions.get_extension_for_oid(ATTRIBUTES).value
        assert isinstance(extension, x509.UnrecognizedExtension)
        return _inside(_inside(extension.value))


def _inside(sequence: bytes) -> bytes:
    """The content of a DER sequence."""
    length = sequence[1]
    return sequence[2 + (length & 0x7F if length & 0x80 else 0) :]
