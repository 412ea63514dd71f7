"""The life of served models, in the real service: new versions under load, models that crash, hang and eat memory, uploads, tenants, the viewer."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from mlaas.auth.identity import Identity
from mlaas.auth.internal import call_token
from mlaas.auth.secrets import service_key
from mlaas.models.archive import pack
from mlaas.models.bundle import read_bundle, write_bundle
from mlaas.models.catalogue import Catalogue
from mlaas.models.repository import Repository
from mlaas.places import Places
from mlaas.settings import Settings
from tests.service.inference import Service, serving
from tests.support import foreign, trained

TENANT = "local"
CAPABLE = (
    int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")).split()[1], 16) & 1 << 21
)  # CAP_SYS_ADMIN
ROW = [float(value) for value in trained.X[0]]


@dataclass
class Running:
    """The service, a client of it, and its repository."""

    service: Service
    client: httpx.Client
    root: Path
    repository: Repository

    def scores(self, model: str, first: float = 0.5, **options: Any) -> httpx.Response:
        """Ask by the published call for one row."""
        return self.client.post("/json", json={"values": [first, *ROW[1:]], "model": model}, **options)

    def version(self, model: str) -> int:
        """Ask by the protocol v2; the version that answered."""
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, trained.WIDTH], "data": ROW}]}
        answer = self.client.post(f"/v2/models/{model}/infer", json=body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["model_version"])

    def nothing_left(self) -> bool:
        """Whether no upload is lying about."""
        uploads = self.root / "uploads"
        return not uploads.exists() or not list(uploads.iterdir())


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("inference")
    options = {"inference_workers": 2, "inference_poll": 0.2, "inference_timeout": 4.0, "inference_memory": 1_000_000_000, "grpc": False}
    with serving(root, **options, inference_model_limit=50_000_000, inference_queue_age=10.0) as service, service.client() as client:
        yield Running(service, client, root, Repository(root / "models"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "plain"
    write_bundle(folder, trained.logistic(), {"model.py": ""})
    return folder


def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for something that comes by itself."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_new_versions_under_load_fail_no_request(running, plain):
    running.repository.publish(plain, TENANT, "hot")
    assert running.version("hot") == 1  # appeared a moment ago
    catalogue = Catalogue(running.root / "models")
    catalogue.set_alias(TENANT, "hot", "production", 1)
    stop = threading.Event()

    def load(reference: str) -> list[int]:
        with running.service.client() as client:
            mine = Running(running.service, client, running.root, running.repository)
            found = []
            while not stop.is_set():
                found.append(mine.version(reference))
        return found

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(load, reference) for reference in ("hot", "hot", "hot@1", "hot@production")]
        try:
            for version in (2, 3):
                running.repository.publish(plain, TENANT, "hot")
                catalogue.set_alias(TENANT, "hot", "production", version)
                until(lambda version=version: running.version("hot") == running.version("hot@production") == version)
            time.sleep(1.0)  # both workers have looked
        finally:
            stop.set()
        versions = [task.result() for task in asked]  # each raises if one answer was not 200
    assert versions[0][-1] == versions[1][-1] == versions[3][-1] == 3
    assert set(versions[2]) == {1}
    catalogue.remove(TENANT, "hot", 3)
    until(lambda: running.version("hot") == 2)
    catalogue.remove(TENANT, "hot")
    until(lambda: running.scores("hot").status_code == 404)


def test_a_model_that_does_harm_takes_nobody_with_it(running, plain, tmp_path):
    secrets = [running.root / "secrets" / "token", running.root / "mlaas.db", Path("/etc/shadow"), Path(__file__)]
    (running.root / "mlaas.db").touch()
    foreign.evil_bundle(tmp_path / "evil", secrets, 1_050_000_000)
    running.repository.publish(tmp_path / "evil", TENANT, "evil")
    running.repository.publish(plain, TENANT, "good")
    assert running.scores("evil").json() == [0.5]
    stop = threading.Event()

    def others() -> int:
        with running.service.client() as client:
            mine = Running(running.service, client, running.root, running.repository)
            count = 0
            while not stop.is_set():
                assert mine.scores("good").status_code == 200
                count += 1
        return count

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(others)
        try:
            harm(running)
        finally:
            stop.set()
        assert asked.result() > 0


def harm(running: Running) -> None:
    """Let the evil model do all that it can; four of its doings end its process, and a fifth puts it into quarantine."""
    assert running.scores("evil", 6).json() == [0.0], "it reached something outside of its sandbox"
    raised = running.scores("evil", 4)
    assert (raised.status_code, raised.json()["error"]) == (500, "the model failed: RuntimeError: no such thing")
    assert running.scores("evil", 5).status_code == 413
    for what, status, sentence in (
        (1, 503, "SIGABRT"),
        (2, 504, "took longer than 4 s"),
        (3, 503, "more than 1 GB of memory"),
        (1, 503, "SIGABRT"),
    ):
        answer = running.scores("evil", what)
        assert answer.status_code == status, answer.text
        assert sentence in answer.json()["error"]
        if status == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        until(lambda: running.scores("evil").status_code == 200)  # started again, after a while
    assert running.scores("evil", 1).status_code == 503
    until(lambda: "quarantine" in running.scores("evil").text)
    states = [entry for entry in running.client.get("/status").json()["models"] if "evil" in entry["model"]]
    assert all("SIGABRT" in entry["reason"] for entry in states)
    running.repository.publish(read_bundle(running.root / "models" / TENANT / "evil" / "1"), TENANT, "evil")
    until(lambda: running.scores("evil").status_code == 200)  # a new version is another matter


def test_slow_graphs_run_apart_and_endless_or_damaged_ones_not_at_all(running, tmp_path):
    for kind in ("slow", "endless", "damaged"):
        foreign.onnx_bundle(tmp_path / kind, kind)
        running.repository.publish(tmp_path / kind, TENANT, kind)
    assert running.scores("slow").status_code == 200
    endless, damaged = running.scores("endless"), running.scores("damaged")
    assert (endless.status_code, damaged.status_code) == (503, 503)
    assert "longer than 8 s for a few rows of zeros" in endless.json()["error"]
    assert "model.onnx" in damaged.json()["error"]

    def isolated() -> dict[str, bool]:
        return {entry["model"].split(":")[1]: entry["isolated"] for entry in running.client.get("/status").json()["models"]}

    until(lambda: running.scores("slow").status_code == 200 and isolated().get("slow@1") is True)


def keeper(running: Running) -> psutil.Process:
    """The one that started the processes of models; the kernel tells who listens."""
    with socket.socket(socket.AF_UNIX) as asked:
        folder = os.open(running.root / "run" / "inference", os.O_RDONLY)
        try:
            asked.connect(f"/proc/self/fd/{folder}/keeper.sock")
        finally:
            os.close(folder)
        pid, _, _ = struct.unpack("3i", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return psutil.Process(pid)


def test_models_run_as_users_without_rights_and_end_with_their_keeper(running, tmp_path):
    foreign.onnx_bundle(tmp_path / "slow", "slow")
    for name in ("apart-1", "apart-2"):
        running.repository.publish(tmp_path / "slow", TENANT, name)
        assert running.scores(name).status_code == 200
    watcher = keeper(running)
    processes = watcher.children()
    assert len(processes) >= 2
    if os.geteuid() == 0 and CAPABLE:
        users = [process.uids() for process in processes]
        assert all(len(set(user)) == 1 for user in users)
        found = {user.real for user in users}
        assert len(found) == len(processes), "two models share a user"
        assert all(199_488 <= user < 200_000 for user in found)
    watcher.kill()
    until(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes))
    until(lambda: running.scores("apart-1").status_code == 200)
    assert keeper(running) != watcher


def test_a_damaged_new_version_leaves_the_old_one_in_service(running, plain, tmp_path):
    running.repository.publish(plain, TENANT, "steady")
    assert running.version("steady") == 1
    foreign.onnx_bundle(tmp_path / "broken", "damaged")
    running.repository.publish(tmp_path / "broken", TENANT, "steady")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        # a worker that had the old one keeps it; one that had none says why there is none
        answer = running.scores("steady")
        assert answer.status_code == 200 or "model.onnx" in answer.text
    running.repository.publish(plain, TENANT, "steady")
    until(lambda: running.version("steady") == 3)


def test_tensorflow_1_graphs(running, tmp_path):
    foreign.frozen_graph(tmp_path / "tf_model.pb")
    params = {"inputNode": "dense_4_input", "outputNode": "output_node0"}
    answer = running.client.post("/upload", **foreign.form("vk", tmp_path / "tf_model.pb", params, labels="background\nsignal\n"))
    assert answer.status_code == 200, answer.text
    row = {"keys": ["a", "b", "c", "d"], "values": [0.1, 0.2, 0.3, 0.4], "model": "vk"}
    assert running.client.post("/json", json=row).json() == pytest.approx(foreign.expected([[0.1, 0.2, 0.3, 0.4]])[0], abs=1e-6)
    (listed,) = [entry for entry in running.client.get("/models").json() if entry["name"] == "vk"]
    assert (listed["model"], listed["labels"], listed["options"]) == ("tf_model.pb", "labels.txt", None)
    assert (listed["inputNode"], listed["outputNode"]) == ("dense_4_input", "output_node0")
    assert set(listed) == {"name", "model", "labels", "options", "inputNode", "outputNode", "description", "timestamp"}
    assert running.client.get("/params/vk").json()["inputNode"] == "dense_4_input"
    wrong = running.client.post("/json", json={"values": [1, 2, 3], "model": "vk"})
    assert wrong.status_code == 400
    assert running.client.request("DELETE", "/delete", files={"model": (None, "vk")}).status_code == 200
    assert running.client.delete("/delete/vk").status_code == 404
    until(lambda: running.client.post("/json", json=row).status_code == 404)
    assert running.nothing_left()


def test_tensorflow_2_saved_models_with_several_inputs(running, tmp_path):
    foreign.saved_model(tmp_path / "two", kind="two")
    answer = running.client.post("/bundle", content=foreign.tarball(tmp_path / "two"), headers={"Content-Encoding": "gzip"})
    assert answer.json() == {"name": "two", "version": 1}
    meta = running.client.get("/v2/models/two").json()
    assert [(entry["name"], entry["datatype"]) for entry in meta["inputs"]] == [("counts", "INT64"), ("scale", "FP32")]
    inputs = [
        {"name": "counts", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]},
        {"name": "scale", "datatype": "FP32", "shape": [2], "data": [1, 0.5]},
    ]
    outputs = {entry["name"]: entry["data"] for entry in running.client.post("/v2/models/two/infer", json={"inputs": inputs}).json()["outputs"]}
    assert outputs == {"most": [2, 4], "total": [3.0, 3.5]}
    refused = running.client.post("/json", json={"values": [1, 2], "model": "two"})
    assert refused.status_code == 400
    assert "tensors" in refused.json()["error"]


def test_images(running, tmp_path):
    foreign.saved_model(tmp_path / "mnist", "serving_default_input_1", kind="image")
    (tmp_path / "mnist" / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    (tmp_path / "mnist" / "params.json").write_text(
        json.dumps({"name": "mnist", "model": "saved_model.pb", "labels": "labels.txt", "img_channels": 1})
    )
    answer = running.client.post("/upload", content=foreign.tarball(tmp_path / "mnist"), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 200, answer.text
    pixels = np.zeros((28, 28), np.uint8)
    pixels[6:8] = 255  # the rows of class 3
    large = np.repeat(np.repeat(pixels, 10, 0), 10, 1)
    for address, data in (("/image", foreign.png(pixels)), ("/predict/image", foreign.png(large, "JPEG"))):
        found = running.client.post(address, data={"model": "mnist"}, files={"image": ("three.png", data)}).json()
        assert (found["filename"], len(found["labels"]), found["labels"][0]["label"]) == ("three.png", 5, "3")
        assert found["labels"][0]["probability"] == pytest.approx(1.0, abs=0.2)
    bad = running.client.post("/image", data={"model": "mnist"}, files={"image": ("x.png", b"GIF89a" + bytes(100))})
    assert (bad.status_code, bad.json()["error"]) == (400, "the image is neither PNG nor JPEG, or it is damaged")
    bomb = foreign.png(np.zeros((7000, 7000), np.uint8))
    assert running.client.post("/image", data={"model": "mnist"}, files={"image": ("x.png", bomb)}).status_code == 413
    assert running.client.post("/image", data={"model": "mnist"}).status_code == 400


def test_our_own_bundles_and_plain_onnx(running, plain, tmp_path):
    archive = pack(plain, tmp_path / "ttH_1.tar.gz", folder="ttH_1")
    answer = running.client.post("/upload", content=archive.read_bytes(), headers={"Content-Encoding": "gzip"})
    assert answer.json() == {"name": "ttH_1", "version": 1}
    assert running.client.post("/upload", content=archive.read_bytes(), headers={"Content-Encoding": "gzip"}).json()["version"] == 2
    expected = trained.logistic().scores[0]
    assert running.scores("ttH_1", ROW[0]).json() == pytest.approx([expected], abs=1e-5)
    foreign.onnx_graph(tmp_path / "m.onnx")
    assert running.client.post("/upload", **foreign.form("graph", tmp_path / "m.onnx")).status_code == 200
    row = {"values": [1, 0, 0, 0], "model": "graph"}
    assert running.client.post("/json", json=row).json() == pytest.approx(foreign.expected([[1, 0, 0, 0]])[0], abs=1e-6)
    assert running.nothing_left()


def _tar(*members: tuple[str, bytes | str], packed: bool = True) -> bytes:
    """An archive of files (bytes) and links (text)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(stream.getvalue()) if packed else stream.getvalue()


HOSTILE = {
    "no archive": b"hello",
    "empty": b"",
    "cut off": _tar(("m/model.onnx", bytes(100_000)))[:200],
    "traversal": _tar(("m/../../../x", b"x")),
    "absolute": _tar(("/etc/x", b"x")),
    "link": _tar(("m/saved_model.pb", "/etc/passwd")),
    "no model": _tar(("m/readme.txt", b"x")),
    "two models": _tar(("m/a.onnx", b"x"), ("m/b.onnx", b"x")),
    "no graph": _tar(("m/a.onnx", b"this is no graph")),
    "bomb": _tar(("m/a.onnx", bytes(201_000_000))),
    "bad name": _tar(("a b/a.onnx", b"x")),
    "long name": _tar(("a" * 101 + "/a.onnx", b"x")),
    "no name": _tar(("a.onnx", b"x"), ("b.txt", b"x")),
    "params not an object": _tar(("m/a.onnx", b"x"), ("m/params.json", b"[]")),
    "another name": _tar(("m/a.onnx", b"x"), ("m/params.json", b'{"name": "other"}')),
    "file outside": _tar(("m/a.txt", b"x"), ("m/params.json", b'{"name": "m", "model": "../../secrets/token"}')),
    "manifest of nothing": _tar(("m/manifest.json", b"{}"), ("m/a.onnx", b"x")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_leave_nothing(running, kind):
    before = sorted(path for path in (running.root / "models").rglob("*") if "version" not in path.name)
    answer = running.client.post("/upload", content=HOSTILE[kind], headers={"Content-Encoding": "gzip"})
    assert answer.status_code in (400, 413, 422), answer.text
    sentence = answer.json()["error"]
    assert len(sentence) < 400
    assert str(running.root) not in sentence
    assert "Traceback" not in sentence
    assert running.nothing_left()
    assert sorted(path for path in (running.root / "models").rglob("*") if "version" not in path.name) == before


def test_hostile_forms_leave_nothing(running, tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"no graph")
    good = foreign.form("formed", model)
    lacking = {**good, "files": {"model": good["files"]["model"]}}
    for request, part in ((lacking, "params"), ({"files": good["files"]}, "name"), (foreign.form("../x", model), "name"), (good, "no ONNX graph")):
        answer = running.client.post("/upload", **request)
        assert answer.status_code == 422, answer.text
        assert part in answer.json()["error"]
    other = foreign.form("formed", model, {"name": "another"})
    assert "another" in running.client.post("/upload", **other).json()["error"]
    outside = foreign.form("formed", model, {"model": "../../x.pb"})
    assert running.client.post("/upload", **outside).status_code == 422
    large = {"data": {"name": "formed"}, "files": {"model": ("m.onnx", bytes(51_000_000))}}
    assert running.client.post("/upload", **large).status_code == 413
    coded = {**foreign.form("formed", model), "headers": {"Content-Encoding": "base64"}}
    assert "base64" in running.client.post("/upload", **coded).json()["error"]
    cut = running.client.post("/upload", content=b"--x\r\nContent-Disp", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert cut.status_code in (400, 422)
    assert running.nothing_left()
    assert "formed" not in running.client.get("/models").text


def caller(running: Running, tenant: str, *groups: str) -> Running:
    """The service as somebody else sees it, who is no administrator."""
    key = service_key(Settings(data=running.root), Places.of(Settings(data=running.root)))
    token = call_token(Identity(tenant, tenant, "https://issuer.example", groups=frozenset(groups)), key)
    client = httpx.Client(base_url=running.service.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    return replace(running, client=client)


def test_what_is_not_yours_is_not_there(running, plain):
    running.repository.publish(plain, "bob", "secret")
    alice = caller(running, "alice", "/cms")
    with (bob := caller(running, "bob")).client:
        assert bob.scores("secret").status_code == 200
    with alice.client as client:
        for reference in ("secret", "bob:secret", "bob:secret@1"):
            assert alice.scores(reference).status_code == 404
            assert client.get(f"/params/{reference}").status_code == 404
            assert client.get("/netron/", params={"model": reference}).status_code == 404
            assert client.get(f"/netron/data/{reference}/model.onnx").status_code == 404
            assert client.delete(f"/delete/{reference}").status_code == 404
        assert client.get("/models").text == "null"
        assert client.get("/status").json()["models"] == []
        catalogue = Catalogue(running.root / "models")
        catalogue.share("bob", "secret", "/cms")
        assert alice.scores("secret").status_code == 200
        assert [entry["name"] for entry in client.get("/models").json()] == ["bob:secret"]
        assert client.delete("/delete/bob:secret").status_code == 404  # shared, not given
        catalogue.unshare("bob", "secret", "/cms")
        until(lambda: alice.scores("secret").status_code == 404)
    assert running.repository.versions("bob", "secret") == [1]
    with httpx.Client(base_url=running.service.url) as anonymous:
        for method, path in (("POST", "/upload"), ("GET", "/models"), ("GET", "/status"), ("DELETE", "/delete/x"), ("POST", "/image")):
            assert anonymous.request(method, path).status_code == 401


def test_the_viewer_leads_nowhere_else(running):
    answer = running.client.get("/netron?model=a%26b", headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.headers["location"]) == (308, "netron/?model=a%26b")


@pytest.mark.needs("chromium")
def test_the_viewer_shows_a_graph(running, plain):
    from playwright.sync_api import sync_playwright

    running.repository.publish(plain, TENANT, "seen")
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        page = browser.new_page(extra_http_headers=running.service.headers)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{running.service.url}/netron/?model=seen")
        page.wait_for_selector("svg .node", timeout=60_000)
        names = page.locator("body").inner_text()
        browser.close()
    assert "scores" in names
    assert all(url.startswith((running.service.url, "blob:", "data:")) for url in asked), asked


def _chromium() -> str:
    from tests.support.programs import find_program

    found = find_program("chromium")
    assert found
    return found
