"""The speed of the inference service: `python -m tests.bench --serving`, or `python -m tests.bench.serving`.

The net has 27 inputs and two layers of 1024. Every figure is a rate against another one of the same run, on the same machine, the load generator
included; each is the median of its runs, taken in turns. Load: wrk, keep-alive.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.service.inference import Service, serving
from tests.support.ports import free_port
from tests.support.served import features, publish

WIDTH = 27
BULK = 1000
SECONDS = 5
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = os.getenv("BENCH_AUTHORIZATION")
wrk.body = os.getenv("BENCH_BODY")
"""
VALUES = [round(index * 37 % 100 / 100, 2) for index in range(WIDTH)]
BODY = json.dumps({"model": "net", "values": VALUES})


def constant(_settings: Any) -> Any:
    """An application on the same HTTP stack that reads the body and answers the same few bytes."""
    import logging

    from mlaas.auth.authenticator import Authenticator
    from mlaas.places import Places

    logging.getLogger("uvicorn.access").propagate = False
    Authenticator.of(_settings, Places.of(_settings))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), (b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"[0.0860]"})

    return app


def prepare(folder: Path) -> None:
    """Train nothing: a Keras net as it is made, exported and published as any other."""
    if (folder / "models" / "local" / "net").exists():
        return
    import keras

    from mlaas.models.trained import TrainedModel

    layers = [keras.layers.Dense(1024, activation="relu"), keras.layers.Dense(1024, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    net = keras.Sequential([keras.Input((WIDTH,)), *layers])
    net.compile(loss="binary_crossentropy")
    x = np.random.default_rng(1).random((512, WIDTH), dtype=np.float32)
    scores = net.predict(x, verbose=0).ravel()
    trained = TrainedModel(net, "keras", "probability", "classification", ["background", "signal"], WIDTH, x, scores)
    publish(folder / "models", "net", trained, of=features(tuple(f"f{index:02d}" for index in range(WIDTH - 2)), 2))


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[Service]:
    """The service with two workers, both with the net loaded."""
    with serving(folder, grpc=False, inference_workers=2, log_level="warning", **settings) as service:
        for _ in range(20):  # a connection each: either worker may take it
            with service.client() as client:
                client.post("/json", content=BODY).raise_for_status()
        load(service.url, service.token, 50, 1)
        yield service


def load(url: str, token: str, clients: int, seconds: int = SECONDS) -> tuple[float, int]:
    """Requests per second answered well by keep-alive clients, and how many were not."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        environment = os.environ | {"BENCH_AUTHORIZATION": f"Bearer {token}", "BENCH_BODY": BODY}
        command = ["wrk", "-t2", f"-c{clients}", f"-d{seconds}", "--timeout", "30", "-s", script.name, f"{url}/json"]
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    total = int(_number(r"(\d+) requests in", text))
    broken = sum(int(part) for part in re.findall(r"(?:connect|read|write|timeout) (\d+)", text))
    bad = broken + int(_number(r"Non-2xx or 3xx responses: (\d+)", text))
    return _number(r"Requests/sec:\s+([\d.]+)", text) * (total - bad) / max(1, total), bad


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


class Line:
    """Rates of several cases, taken in turns."""

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat

    def medians(self, *cases: Callable[[], float]) -> list[float]:
        """The median rate of each."""
        rates: list[list[float]] = [[] for _ in cases]
        for _ in range(self._repeat):
            for found, case in zip(rates, cases, strict=True):
                found.append(case())
        return [statistics.median(found) for found in rates]


def say(title: str, ours: float, theirs: float, goal: str, more: str = "") -> None:
    """A line of the table."""
    print(f"{title:<54}{ours:>12,.0f}{theirs:>12,.0f}{ours / theirs:>8.2f}  {goal:<8}{more}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--overload", type=int, default=30, help="seconds of overload")
    options = parser.parse_args(arguments)
    folder = (options.folder / "serving").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    prepare_apart(folder)
    print(f"{'case':<54}{'per second':>12}{'against':>12}{'ratio':>8}  {'goal':<8}")
    line = Line(options.repeat)
    rate = rows(folder, line)
    baseline(folder, line, rate)
    thousand(folder, line)
    bulk(folder, line)
    overload(folder, rate, options.overload)


def prepare_apart(folder: Path) -> None:
    """In a process of its own: TensorFlow's threads would take part in what is measured."""
    code = f"from pathlib import Path; from tests.bench.serving import prepare; prepare(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def rows(folder: Path, line: Line) -> float:
    """One event per request: against the constant answer, and against the same without batches. Returns the rate with 100 clients."""
    apart = folder / "constant"
    apart.mkdir(exist_ok=True)
    with (
        started(folder) as batched,
        started(folder, inference_batching="false") as single,
        serving(apart, factory="tests.bench.serving:constant", grpc=False, inference_workers=2, log_level="warning") as answer,
    ):
        best = 0.0
        for clients in (100, 200):
            cases = [lambda s=service, c=clients: load(s.url, s.token, c)[0] for service in (batched, answer, single)]
            ours, fixed, alone = line.medians(*cases)
            say(f"row JSON, {clients} clients, against a constant answer", ours, fixed, ">= 0.5")
            say(f"row JSON, {clients} clients, against no batches", ours, alone, ">= 1.6")
            best = best or ours
    return best


def baseline(folder: Path, line: Line, rate: float) -> None:
    """The way it is often done: Flask and the SavedModel's signature, one process with threads."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.flask_baseline", str(folder / "models/local/net/1"), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        load(url, "", 10, 1)
        [theirs] = line.medians(lambda: load(url, "", 100)[0])
        say("row JSON, 100 clients, against Flask and SavedModel", rate, theirs, ">= 20")
    finally:
        process.terminate()
        process.wait()


def thousand(folder: Path, line: Line) -> None:
    """A thousand clients against two hundred, and the memory of the workers."""
    with started(folder) as service:
        bad: list[int] = []

        def many() -> float:
            rate, wrong = load(service.url, service.token, 1000)
            bad.append(wrong)
            return rate

        before = memory(service)
        ours, theirs = line.medians(many, lambda: load(service.url, service.token, 200)[0])
        more = f"{sum(bad)} not answered well; memory {before / 1e6:.0f} -> {memory(service) / 1e6:.0f} MB"
        say("row JSON, 1000 clients, against 200", ours, theirs, ">= 0.8", more)


def memory(service: Service) -> int:
    """Resident bytes of all its processes."""
    top = psutil.Process(service.process.pid)
    return sum(process.memory_info().rss for process in (top, *top.children(recursive=True)))


def bulk(folder: Path, line: Line) -> None:
    """1,000 events per binary request on two connections, against ONNX Runtime alone with two threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "models/local/net/1/model.onnx", options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).random((BULK, WIDTH), dtype=np.float32)
    head = json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    with started(folder) as service:
        addresses = threading.local()

        def post() -> None:
            if not hasattr(addresses, "client"):
                addresses.client = service.client()
            length = {"Inference-Header-Content-Length": str(len(head))}
            answer = addresses.client.post("/v2/models/net/infer", content=head + x.tobytes(), headers=length)
            answer.raise_for_status()

        ours, theirs = line.medians(lambda: BULK * two_threads(post), lambda: BULK * two_threads(lambda: session.run(None, {"x": x})))
        say("1,000 events per request, against ONNX Runtime alone", ours, theirs, ">= 0.85")


def two_threads(call: Callable[[], Any]) -> float:
    """Calls per second by two threads."""
    counts = [0, 0]
    end = time.perf_counter() + SECONDS

    def run(number: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


def overload(folder: Path, rate: float, seconds: int) -> None:
    """Arrivals at twice the rate of 100 clients, whatever was answered: the ages of the answers, and how soon it is over."""
    with started(folder) as service:
        before = memory(service)
        result = asyncio.run(arrivals(service, 2 * rate, seconds))
        print(f"\noverload: {2 * rate:,.0f} arrivals per second for {seconds} s, at most {CONNECTIONS} connections")
        good, ages = result.statuses.get(200, 0), np.array(result.ages or [0.0])
        middle, most = np.median(ages), np.quantile(ages, 0.99)
        print(f"  answered {dict(result.statuses)}; not sent for want of a free connection {result.held:,}")
        print(f"  good answers {good / seconds:,.0f} per second; age median {middle:.3f} s, 99 % {most:.3f} s, largest {ages.max():.3f} s")
        print(f"  the first answer within 100 ms {result.recovered:.2f} s after the end")
        print(f"  memory {before / 1e6:.0f} -> {memory(service) / 1e6:.0f} MB")


CONNECTIONS = 1500


class Arrivals:
    """What became of the arrivals. ages: seconds from sending to the answer, of good answers. held: arrivals without a free connection."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.ages: list[float] = []
        self.held = 0
        self.recovered = 0.0


class _Connection(asyncio.Protocol):
    """A keep-alive connection that has at most one request under way."""

    def __init__(self, result: Arrivals, free: list[_Connection]) -> None:
        self._result, self._free = result, free
        self._sent = 0.0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._free.append(self)

    def ask(self, request: bytes) -> None:
        self._sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            status = int(data[9:12])
            self._result.statuses[status] += 1
            if status == 200:
                self._result.ages.append(time.perf_counter() - self._sent)
            self._free.append(self)


async def arrivals(service: Service, rate: float, seconds: int) -> Arrivals:
    """Send at a steady rate, without waiting for answers; then one request at a time until one is answered quickly."""
    host, port = service.url.removeprefix("http://").split(":")
    result, free = Arrivals(), []  # type: ignore[var-annotated]
    loop = asyncio.get_running_loop()
    head = f"POST /json HTTP/1.1\r\nHost: {host}\r\nAuthorization: {service.headers['authorization']}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    request = (head + BODY).encode()
    connections = [(await loop.create_connection(lambda: _Connection(result, free), host, int(port)))[1] for _ in range(CONNECTIONS)]
    begin, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - begin) < seconds:
        due = int(now * rate) - sent
        for _ in range(min(due, len(free))):
            free.pop().ask(request)
        result.held += max(0, due - len(free)) if not free else 0
        sent += due
        await asyncio.sleep(0.001)
    ended = time.perf_counter()
    with service.client() as client:
        while True:
            ask = time.perf_counter()
            if client.post("/json", content=BODY).status_code == 200 and time.perf_counter() - ask < 0.1:
                break
    result.recovered = time.perf_counter() - ended
    for connection in connections:
        connection.transport.close()
    return result


if __name__ == "__main__":
    main()
