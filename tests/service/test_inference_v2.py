"""The Open Inference Protocol: tritonclient as it is, and what other clients send."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas.models.catalogue import Catalogue
from mlaas.models.predict import Predictor
from tests.service.inference import Service, serving
from tests.support.served import classifier, publish
from tests.support.trained import WIDTH, X

EVENTS = {"eta": [1.0, 2.0, 3.0], "met": [4.0, 5.0, 6.0], "njet": [1.0, 2.0, 3.0], "phi": [0.5, 1.5, 2.5], "jet_pt": [[50.0, 20.0], [], [70.0]]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inference")
    models = folder / "models"
    publish(models, "ttH", classifier())
    publish(models, "ttH", classifier(seed=2))
    publish(models, "multi", classifier("multi"))
    publish(models, "hidden", classifier(), tenant="somebody")
    Catalogue(models).set_alias("local", "ttH", "first", 1)
    return folder


@pytest.fixture(scope="module")
def service(data) -> Iterator[Service]:
    with serving(data) as running:
        yield running


@pytest.fixture(scope="module")
def expected(data) -> dict[str, np.ndarray]:
    """The scores of X by the bundles themselves."""
    folders = {"ttH@1": "ttH/1", "ttH@2": "ttH/2", "multi": "multi/1"}
    return {name: Predictor(data / "models" / "local" / folder).engine.predict(X) for name, folder in folders.items()}


def library(kind: str) -> Any:
    """A module of tritonclient; gevent, which its HTTP client uses, warns when it is imported late."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"tritonclient.{kind}")


@pytest.fixture(params=["http", "grpc"])
def triton(request, service) -> Iterator[tuple[Any, Any]]:
    """The library and a client of it."""
    module = library(request.param)
    client = module.InferenceServerClient(service.url.removeprefix("http://") if request.param == "http" else service.grpc)
    yield module, client
    client.close()


def tensor(module: Any, name: str, array: np.ndarray, datatype: str = "FP32", **how: Any) -> Any:
    found = module.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, **how)
    return found


def test_health_and_metadata(triton, service):
    module, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    as_json = {} if module.__name__.endswith("http") else {"as_json": True}
    assert client.get_server_metadata(**as_json)["name"] == "mlaas"
    about = client.get_model_metadata("ttH", headers=service.headers, **as_json)
    assert (about["name"], about["versions"], about["platform"]) == ("ttH", ["1", "2"], "onnxruntime_onnx")
    [x] = about["inputs"]
    assert (x["name"], x["datatype"], [int(size) for size in x["shape"]]) == ("x", "FP32", [-1, WIDTH])
    assert [found["name"] for found in about["outputs"]] == ["scores"]
    assert client.is_model_ready("ttH", "first", headers=service.headers)
    assert not client.is_model_ready("nothing", headers=service.headers)


@pytest.mark.parametrize(("version", "which"), [("", "ttH@2"), ("1", "ttH@1"), ("first", "ttH@1"), ("latest", "ttH@2")])
def test_versions_and_aliases(triton, service, expected, version, which):
    module, client = triton
    for name, beside in ((f"ttH@{version}" if version else "ttH", ""), ("local:ttH", version)):
        answer = client.infer(name, [tensor(module, "x", X)], model_version=beside, headers=service.headers, request_id="7")
        np.testing.assert_allclose(answer.as_numpy("scores"), expected[which], atol=1e-6)
        told = answer.get_response()
        assert (told["id"] if isinstance(told, dict) else told.id) == "7"
        assert (told["model_version"] if isinstance(told, dict) else told.model_version) == which[-1]


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_binary_tensors_both_ways(service, expected, sent, wanted):
    module = library("http")
    with module.InferenceServerClient(service.url.removeprefix("http://")) as client:
        outputs = [module.InferRequestedOutput("scores", binary_data=wanted)]
        answer = client.infer("multi", [tensor(module, "x", X, binary_data=sent)], outputs=outputs, headers=service.headers)
    np.testing.assert_allclose(answer.as_numpy("scores"), expected["multi"], atol=1e-6)
    assert ("data" in answer.get_output("scores")) is not wanted


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_compression(service, expected, way):
    module = library("http")
    with module.InferenceServerClient(service.url.removeprefix("http://")) as client:
        how = {"request_compression_algorithm": way, "response_compression_algorithm": way}
        answer = client.infer("ttH", [tensor(module, "x", X)], headers=service.headers, **how)
    np.testing.assert_allclose(answer.as_numpy("scores"), expected["ttH@2"], atol=1e-6)
    with service.client() as http:
        body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 6], "data": [0, 0, 0, 0, 0, 0]}]}'
        packed = gzip.compress(body) if way == "gzip" else zlib.compress(body)
        assert http.post("/v2/models/ttH/infer", content=packed, headers={"Content-Encoding": way}).status_code == 200
        assert http.post("/v2/models/ttH/infer", content=b"xyz", headers={"Content-Encoding": way}).status_code == 400


def test_the_asynchronous_client(service, expected):
    async def run() -> list[np.ndarray]:
        module = library("http.aio")
        async with module.InferenceServerClient(service.url.removeprefix("http://")) as client:
            calls = [client.infer("ttH", [tensor(module, "x", X[i : i + 3])], headers=service.headers) for i in range(0, 60, 3)]
            return [answer.as_numpy("scores") for answer in await asyncio.gather(*calls)]

    np.testing.assert_allclose(np.concatenate(asyncio.run(run())), expected["ttH@2"][:60], atol=1e-6)


def test_many_at_a_time(triton, service, expected):
    module, _ = triton
    remote = module.__name__.endswith("grpc")

    def call(number: int) -> np.ndarray:
        rows = X[number % 7 : number % 7 + 1 + number % 5]
        with module.InferenceServerClient(service.url.removeprefix("http://") if not remote else service.grpc) as own:
            return own.infer("ttH", [tensor(module, "x", rows)], headers=service.headers).as_numpy("scores")

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(call, range(40))):
            np.testing.assert_allclose(found, expected["ttH@2"][number % 7 : number % 7 + 1 + number % 5], atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([("x", np.zeros((2, 5), np.float32), "FP32")], r"takes \[n, 6\]"),
        ([("x", np.zeros((0, 6), np.float32), "FP32")], r"takes \[n, 6\]"),
        ([("x", np.zeros(6, np.float32), "FP32")], r"takes \[n, 6\]"),
        ([("x", np.full((1, 6), np.inf, np.float32), "FP32")], "infinite"),
        ([("x", np.full((1, 6), b"a", object), "BYTES")], "must hold numbers, not BYTES"),
        ([("x", np.zeros((1, 6), np.float32), "FP32"), ("y", np.zeros(1, np.float32), "FP32")], "no input 'y'"),
        ([("x", np.zeros((1, 6), np.float32), "FP32"), ("mask", np.zeros((1, 6), np.float32), "FP32")], "takes no mask"),
        ([("eta", np.zeros(1, np.float32), "FP32")], "no branch"),
    ],
)
def test_inputs_that_do_not_fit(triton, service, inputs, said):
    module, client = triton
    with pytest.raises(library("utils").InferenceServerException, match=said) as caught:
        client.infer("ttH", [tensor(module, name, array, datatype) for name, array, datatype in inputs], headers=service.headers)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("name", "version"), [("nothing", ""), ("hidden", ""), ("somebody:nothing", ""), ("ttH", "9"), ("ttH", "nobody"), ("ttH@9", "")]
)
def test_models_that_are_not_there_or_not_ours(triton, service, name, version):
    module, client = triton
    with pytest.raises(library("utils").InferenceServerException) as caught:
        client.infer(name, [tensor(module, "x", X[:1])], model_version=version, headers=service.headers)
    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eDp5"}])
def test_who_has_no_token(triton, headers):
    module, client = triton
    with pytest.raises(library("utils").InferenceServerException) as caught:
        client.infer("ttH", [tensor(module, "x", X[:1])], headers=dict(headers))
    assert caught.value.status() in ("401", "StatusCode.UNAUTHENTICATED")


def test_raw_events_as_tensors(triton, service, data):
    module, client = triton
    jets = [value for part in EVENTS["jet_pt"] for value in part]
    flat = [tensor(module, name, np.array(EVENTS[name], np.float64), "FP64") for name in ("eta", "met", "njet", "phi")]
    jagged = [tensor(module, "jet_pt.offsets", np.array([0, 2, 2, 3]), "INT64"), tensor(module, "jet_pt.values", np.array(jets, np.float32))]
    answer = client.infer("ttH", [*flat, *jagged], headers=service.headers)
    np.testing.assert_allclose(answer.as_numpy("scores"), Predictor(data / "models/local/ttH/2").predict(EVENTS), atol=1e-6)


def test_typed_contents_are_answered_with_typed_contents(service, expected):
    """What clients send that do not use raw bytes, as grpcurl does; in a channel of its own, for tritonclient always sends raw bytes."""
    import grpc

    from mlaas.inference.proto import open_inference_pb2 as messages

    request = messages.ModelInferRequest(model_name="multi")
    request.inputs.add(name="x", datatype="FP32", shape=[2, WIDTH]).contents.fp32_contents.extend(X[:2].ravel().tolist())
    metadata = (("authorization", service.headers["authorization"]),)
    with grpc.insecure_channel(service.grpc) as channel:
        method = "/inference.GRPCInferenceService/ModelInfer"
        call = channel.unary_unary(method, messages.ModelInferRequest.SerializeToString, messages.ModelInferResponse.FromString)
        answer = call(request, metadata=metadata)
        np.testing.assert_allclose(answer.outputs[0].contents.fp32_contents, expected["multi"][:2].ravel(), atol=1e-6)
        assert (list(answer.outputs[0].shape), list(answer.raw_output_contents)) == ([2, 3], [])
        request.inputs.add(name="mask", datatype="FP16", shape=[1])
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        request.raw_input_contents.append(b"")
        with pytest.raises(grpc.RpcError, match="2 inputs, but 1 raw_input_contents"):
            call(request, metadata=metadata)


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"{", {}, "not JSON"),
        (b"[]", {}, "must be an object"),
        (b"{}", {}, "inputs must be a list"),
        (b'{"inputs": []}', {}, "inputs must be a list"),
        (b'{"inputs": [1]}', {}, "a name of its own"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}', {}, "data must be a list"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', {}, "not JSON"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}', {}, "does not fit the body"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": [1]}]}', {}, "data must be a list"),
        (b"{}", {"Inference-Header-Content-Length": "9"}, "Inference-Header-Content-Length"),
        (b"{}", {"Inference-Header-Content-Length": "-1"}, "Inference-Header-Content-Length"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}xx', {"Inference-Header-Content-Length": "74"}, "2 bytes more"),
    ],
)
def test_bodies_that_are_no_requests(service, body, headers, said):
    with service.client() as http:
        answer = http.post("/v2/models/ttH/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2", 405),
        ("GET", "/v2/models/ttH/infer", 405),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/ttH/versions/1/nothing", 404),
        ("GET", "/v2x", 404),
        ("HEAD", "/v2/models/ttH", 200),
        ("GET", "/v2/", 200),
    ],
)
def test_addresses(service, method, path, status):
    with service.client() as http:
        answer = http.request(method, path)
    assert answer.status_code == status
    assert method != "HEAD" or not answer.content


def test_an_output_may_be_asked_for_by_name(service):
    with service.client() as http:
        request = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1, 6], "data": [[0, 1, 0, 1, 0, 1]]}], "outputs": [{"name": "scores"}]}
        answer = http.post("/v2/models/ttH/infer", json=request)
        assert [found["name"] for found in answer.json()["outputs"]] == ["scores"]
        answer = http.post("/v2/models/ttH/infer", json={**request, "outputs": [{"name": "score"}]})
        assert (answer.status_code, answer.json()["error"]) == (400, "the model local:ttH@2 has no output 'score' (did you mean 'scores'?)")


def test_two_workers_share_both_ports(data, expected, tmp_path):
    module = library("grpc")
    with serving(data, inference_workers=2) as service:
        for _ in range(6):
            with module.InferenceServerClient(service.grpc) as client:
                found = client.infer("ttH", [tensor(module, "x", X)], headers=service.headers).as_numpy("scores")
                np.testing.assert_allclose(found, expected["ttH@2"], atol=1e-6)
        assert service.stop() == 0
    assert not [line for line in service.lines() if line["level"] in ("error", "critical", "warning")]
