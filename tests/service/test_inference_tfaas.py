"""The published TFaaS calls for events, raw events, and how the service behaves as a process: limits, ends, deaths."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from mlaas.inference.proto.tfaas_pb2 import Predictions, Row
from mlaas.models.predict import Predictor
from tests.service.inference import Service, serving
from tests.support.served import classifier, publish
from tests.support.trained import WIDTH, X

COLUMNS = ["eta", "met", "njet", "phi", "jet_pt[0]", "jet_pt[1]"]
EVENTS = {"eta": [1.0, 2.0, 3.0], "met": [4.0, 5.0, 6.0], "njet": [1.0, 2.0, 3.0], "phi": [0.5, 1.5, 2.5], "jet_pt": [[50.0, 20.0], [], [70.0]]}
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inference")
    for name, kind in (("ttH", "binary"), ("multi", "multi"), ("mass", "value")):
        publish(folder / "models", name, classifier(kind))
    return folder


@pytest.fixture(scope="module")
def service(data) -> Iterator[Service]:
    with serving(data, grpc=False, inference_body_limit="1MB") as running:
        yield running


@pytest.fixture
def http(service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def predictor(data: Path, name: str) -> Predictor:
    return Predictor(data / "models" / "local" / name / "1")


def row(model: str = "ttH", **more: Any) -> dict[str, Any]:
    return {"model": model, "values": X[0].tolist(), **more}


@pytest.mark.parametrize("path", ["/json", "/predict/json"])
@pytest.mark.parametrize("model", ["ttH", "multi", "mass", "ttH@latest", "local:ttH@1"])
def test_row_json(http, data, path, model):
    answer = http.post(path, json=row(model))
    expected = predictor(data, model.split("@")[0].split(":")[-1]).engine.predict(X[:1]).ravel()
    assert answer.headers["content-type"] == "application/json"
    np.testing.assert_allclose(answer.json(), expected, atol=1e-6)


def test_numbers_are_written_as_float32(http):
    text = http.post("/json", json=row()).text
    assert text == f"[{np.float32(json.loads(text)[0])!s}]"


@pytest.mark.parametrize("path", ["/proto", "/predict/proto"])
@pytest.mark.parametrize(("model", "labels"), [("ttH", ["signal"]), ("multi", ["ttbar", "ttH", "other"]), ("mass", [""])])
def test_row_protobuf(http, data, path, model, labels):
    answer = http.post(path, content=Row(model=model, value=X[0], key=COLUMNS).SerializeToString())
    found = Predictions.FromString(answer.content).prediction
    expected = predictor(data, model).engine.predict(X[:1]).ravel()
    np.testing.assert_allclose([item.probability for item in found], expected, atol=1e-6)
    assert [item.label for item in found] == labels


@pytest.mark.needs("curl")
def test_curl_as_published(service):
    """The call of the TFaaS guide; the token comes from a file, so that it is not in the list of processes."""
    header = Path(service.log).with_name("header")
    header.write_text(f"Authorization: {service.headers['authorization']}\n")
    command = ["curl", "-s", "-X", "POST", "-H", "Content-type: application/json", "-H", f"@{header}", "-d", json.dumps(row()), f"{service.url}/json"]
    assert 0 < json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0] < 1


@pytest.mark.parametrize("order", [range(WIDTH), range(WIDTH - 1, -1, -1), [3, 1, 0, 5, 2, 4]])
def test_keys_name_the_values(http, order):
    keyed = row(keys=[COLUMNS[index] for index in order], values=[float(X[0][index]) for index in order])
    assert http.post("/json", json=keyed).json() == http.post("/json", json=row()).json()


def test_null_is_zero(http):
    first, second = (http.post("/json", json=row(values=[value, *X[0].tolist()[1:]])).json() for value in (None, 0))
    assert first == second


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"model": "ttH", "values": [NaN]}', 400, "not JSON"),
        (b"null", 400, "must be an object"),
        (b"{}", 400, "model must be the name"),
        (b'{"model": 1}', 400, "model must be the name"),
        (b'{"model": ""}', 400, "model must be the name"),
        (b'{"model": "ttH"}', 400, "values must be a list"),
        (b'{"model": "ttH", "values": {}}', 400, "values must be a list"),
        (b'{"model": "ttH", "values": []}', 400, "values has 0 numbers, but the model local:ttH@1 takes 6"),
        (b'{"model": "ttH", "values": [1, 2, 3, 4, 5, "6"]}', 400, "values must be a list of numbers"),
        (b'{"model": "ttH", "values": [1, 2, 3, 4, 5, true]}', 400, "values must be a list of numbers"),
        (b'{"model": "ttH", "values": [1, 2, 3, 4, 5, [6]]}', 400, "values must be a list of numbers"),
        (b'{"model": "ttH", "values": [1, 2, 3, 4, 5, 1e39]}', 400, "value 5 is infinite"),
        (json.dumps(row(keys=["eta"])).encode(), 400, "keys must name each feature once"),
        (json.dumps(row(keys=["eta"] * 6)).encode(), 400, "keys must name each feature once"),
        (json.dumps(row(keys=[*COLUMNS[:-1], "jet_pt[2]"])).encode(), 400, "no feature 'jet_pt[2]' (did you mean 'jet_pt["),
        (json.dumps(row(keys="eta")).encode(), 400, "keys must be a list"),
        (json.dumps(row("../ttH")).encode(), 404, "no model"),
        (json.dumps(row("ttH@7")).encode(), 404, "no version"),
        (json.dumps(row("x" * 311)).encode(), 400, "model must be the name"),
        (json.dumps(row("t\u0000H")).encode(), 404, "no model"),
        (b" " * 1_100_000, 413, "larger than 1000000 bytes"),
    ],
    ids=range(24),
)
def test_bad_rows(http, body, status, said):
    answer = http.post("/json", content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"\xff\xff", b"\x0a\x05a"])
def test_bad_protobuf(http, body):
    answer = http.post("/proto", content=body)
    assert (answer.status_code, answer.json()) == (400, {"error": "the body is not a message Row of protobuf"})


def test_methods_and_tokens(http, service):
    assert (http.get("/json").status_code, http.get("/json").headers["allow"]) == (405, "POST")
    with httpx.Client(base_url=service.url) as nobody:
        answer = nobody.post("/json", json=row())
        assert (answer.status_code, answer.headers["www-authenticate"].split()[0]) == (401, "Bearer")
        assert nobody.post("/json", json=row(), headers={"Authorization": "Bearer " + "x" * 20_000}).status_code == 401
        assert nobody.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "events",
    [
        EVENTS,
        {**EVENTS, "jet_pt": {"offsets": [0, 2, 2, 3], "values": [50.0, 20.0, 70.0]}},
        [{name: values[index] for name, values in EVENTS.items()} for index in range(3)],
    ],
)
def test_raw_events(http, data, events):
    for path, body in (("/predict/events", {"model": "ttH", "events": events}), ("/v2/models/ttH/events", {"events": events})):
        answer = http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert {key: value for key, value in answer.json().items() if key != "scores"} == {
            "model": "ttH",
            "version": 1,
            "classes": ["background", "signal"],
        }
        np.testing.assert_allclose(answer.json()["scores"], predictor(data, "ttH").predict(EVENTS), atol=1e-6)


def test_many_raw_events_packed(data):
    n = 20_000
    events = {name: np.tile(np.array(EVENTS[name]), n // 3 + 1)[:n].tolist() for name in ("eta", "met", "njet", "phi")}
    events["jet_pt"] = [EVENTS["jet_pt"][index % 3] for index in range(n)]
    with serving(data, grpc=False) as service, service.client() as http:
        body = gzip.compress(json.dumps({"model": "multi", "events": events}).encode())
        answer = http.post("/predict/events", content=body, headers={"Content-Encoding": "gzip"})
    scores = np.array(answer.json()["scores"])
    assert scores.shape == (n, 3)
    np.testing.assert_allclose(scores[:3000], np.tile(predictor(data, "multi").predict(EVENTS), (1000, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ({**EVENTS, "jet_pt": {"offsets": [0, 4], "values": [1]}}, "offsets must begin with 0"),
        ({name: EVENTS[name] for name in ("eta", "met", "njet", "phi")}, "no branch 'jet_pt'"),
        ({**EVENTS, "eta": ["a", 1, 2]}, "'eta' must hold numbers"),
        ({**EVENTS, "eta": [1]}, "has 3 events, but 'eta' has 1"),
        ([1], "event 0 must be a mapping"),
        ("eta", "events must be"),
        (None, "events must be"),
    ],
)
def test_bad_events(http, events, said):
    answer = http.post("/predict/events", json={"model": "ttH", "events": events})
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)
    assert said in answer.json()["detail"], answer.text


def test_no_events_no_scores(http):
    answer = http.post("/predict/events", json={"model": "multi", "events": []})
    assert (answer.status_code, answer.json()["scores"]) == (200, [])


def test_nothing_of_all_this_was_a_fault(service):
    assert not [line for line in service.lines() if line["level"] in ("error", "critical")]
    assert service.token not in service.log.read_text()


# ---- as a process


def busy(service: Service, stop: threading.Event, found: list[Any]) -> threading.Thread:
    """A client that asks until it is told to stop; answers and errors go to `found`."""

    def ask() -> None:
        with service.client() as http:
            while not stop.is_set():
                try:
                    found.append(http.post("/json", json=row()).status_code)
                except httpx.HTTPError as error:
                    found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_running_requests_finish_when_it_stops(data):
    with serving(data, grpc=False) as service:
        host, port = service.url.removeprefix("http://").split(":")
        body = json.dumps(row()).encode()
        head = f"POST /json HTTP/1.1\r\nHost: x\r\nAuthorization: {service.headers['authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as half:
            half.sendall(head.encode() + body[:10])  # the service waits for the rest
            with service.client() as http:
                assert http.post("/json", json=row()).status_code == 200
            service.process.send_signal(signal.SIGTERM)
            while "Shutting down" not in service.log.read_text():
                time.sleep(0.02)
            half.sendall(body[10:])
            answer = half.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer.lower()
        assert service.process.wait(30) == 0


def test_a_worker_that_dies_is_replaced(data):
    with serving(data, grpc=False, inference_workers=2) as service:
        stop = threading.Event()
        found: list[Any] = []
        with service.client() as http:
            assert http.post("/json", json=row()).status_code == 200
        workers = [child for child in psutil.Process(service.process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        thread = busy(service, stop, found)
        workers[0].kill()
        while "another takes its place" not in service.log.read_text():
            time.sleep(0.05)
        before = len(found)
        while len(found) < before + 50:
            time.sleep(0.02)
        stop.set()
        thread.join()
        assert service.stop() == 0
    errors = [item for item in found if item != 200]
    assert len(errors) <= 1, errors  # at most the one that the dead worker had


def test_overload_is_refused_with_retry_after_and_then_over(data):
    """One place in the queue: of requests that come together one is served, the others are told to come again."""
    with serving(data, grpc=False, inference_queue=1) as service:
        host, port = service.url.removeprefix("http://").split(":")
        body = json.dumps(row()).encode()
        head = f"POST /json HTTP/1.1\r\nHost: x\r\nAuthorization: {service.headers['authorization']}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with service.client() as http:
            assert http.post("/json", json=row()).status_code == 200
            statuses = set()
            while not {b"200", b"503"} <= statuses:
                connections = [socket.create_connection((host, int(port))) for _ in range(30)]
                os.kill(worker(service), signal.SIGSTOP)  # so that they are all there when it goes on
                for connection in connections:
                    connection.sendall(head + body)
                os.kill(worker(service), signal.SIGCONT)
                answers = [connection.recv(65536) for connection in connections]
                statuses |= {answer.split()[1] for answer in answers}
                assert all(b"retry-after: 1" in answer for answer in answers if answer.split()[1] == b"503")
                for connection in connections:
                    connection.close()
            assert statuses == {b"200", b"503"}
            assert http.post("/json", json=row()).status_code == 200


def worker(service: Service) -> int:
    """The process that answers: with one worker the service itself."""
    return service.process.pid


def test_metrics_tell_requests_latencies_and_batches(data):
    with serving(data, grpc=False, inference_workers=2) as service:
        with service.client() as http:
            for _ in range(5):
                assert http.post("/json", json=row()).status_code == 200
            http.post("/json", json=row("nothing"))
            while 'route="/json",status="404"' not in (text := http.get("/metrics").text) or 'route="/json",status="200"} 5' not in text:
                time.sleep(0.1)
        assert 'mlaas_http_request_seconds_count{method="POST",route="/json"} 6.0' in text
        assert "mlaas_inference_batch_events_sum 5.0" in text
        assert "mlaas_inference_requests_waiting 0.0" in text


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = os.environ | {"MLAAS_DATA": str(tmp_path), "MLAAS_INFERENCE_PORT": "0", "MLAAS_GRPC_PORT": str(port)}
        done = subprocess.run([sys.executable, "-m", "mlaas.inference"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"mlaas inference: MLAAS_GRPC_PORT: 127.0.0.1:{port} cannot be listened on")
