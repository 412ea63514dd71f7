"""The inference service with a certificate: HTTP and gRPC."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import grpc
import pytest

from mlaas.inference.proto import open_inference_pb2 as messages
from tests.service.inference import serving
from tests.support.served import classifier, publish
from tests.support.trained import X


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signed itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    found = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(found.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


def test_http_and_grpc_by_tls(tmp_path, certificate):
    cert, key = certificate
    publish(tmp_path / "models", "ttH", classifier())
    with serving(tmp_path, ca=cert, tls_certificate=cert, tls_key=key) as service:
        assert service.url.startswith("https://")
        with service.client() as http:
            answer = http.post("/json", json={"model": "ttH", "values": X[0].tolist()})
            assert answer.status_code == 200, answer.text
        request = messages.ModelInferRequest(model_name="ttH")
        request.inputs.add(name="x", datatype="FP32", shape=[1, X.shape[1]]).contents.fp32_contents.extend(X[0].tolist())
        method = "/inference.GRPCInferenceService/ModelInfer"
        with grpc.secure_channel(service.grpc, grpc.ssl_channel_credentials(cert.read_bytes())) as channel:
            call = channel.unary_unary(method, messages.ModelInferRequest.SerializeToString, messages.ModelInferResponse.FromString)
            found = call(request, metadata=(("authorization", service.headers["authorization"]),), timeout=60)
        assert list(found.outputs[0].contents.fp32_contents) == pytest.approx(answer.json(), abs=1e-6)
        with grpc.insecure_channel(service.grpc) as channel:
            call = channel.unary_unary(method, messages.ModelInferRequest.SerializeToString, messages.ModelInferResponse.FromString)
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=60)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
