"""The server in the whole service: a training through API v1, followed as it runs, and what comes of it."""

from __future__ import annotations

import json
import signal
import tarfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlaas.client.streams import Message, messages
from mlaas.demo.generate import write_pair
from tests.service.service import Service, packed, running

MODEL = "def model(idim):\n    from sklearn.linear_model import LogisticRegression\n\n    return LogisticRegression()\n"
PARAMS = {"branch": "events", "identifier": ["runNo", "evtNo", "lumi"], "selected_branches": ["ht", "met", "jet_pt"]}
TRAINING = {"workspace": "tth", "files": ["signal.root", "background.root"], "labels": [1, 0], "model": "model.py", "params": PARAMS, "memory": "3gb"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("tth")
    write_pair(found, 1000, profile="seed", basket=500)
    (found / "model.py").write_text(MODEL)
    (found / "slow.py").write_text(f"import time\nprint('begins', flush=True)\ntime.sleep(600)\n{MODEL}")
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory, folder):
    with running(tmp_path_factory.mktemp("service") / "data") as found:
        with found.client() as http:
            http.put("/api/v1/workspaces/tth", content=packed(folder)).raise_for_status()
        yield found


def follow(http: httpx.Client, job: str, **headers: str) -> list[Message]:
    """The events of a job until its stream ends."""
    with http.stream("GET", f"/api/v1/jobs/{job}/events", headers=headers, timeout=300) as answer:
        assert answer.status_code == 200
        return list(messages(answer.iter_bytes()))


def text(events: list[Message]) -> str:
    return "".join(event.data for event in events if event.kind == "log")


def submitted(http: httpx.Client, **change: Any) -> dict[str, Any]:
    answer = http.post("/api/v1/jobs", json=TRAINING | change)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def trained(service: Service) -> tuple[dict[str, Any], list[Message]]:
    """A training, followed from its submission to its end."""
    with service.client() as http:
        job = submitted(http)
        return job, follow(http, job["id"])


def test_a_training_is_followed_to_its_end(service, trained):
    job, events = trained
    with service.client() as http:
        states = [json.loads(event.data)["state"] for event in events if event.kind == "state"]
        assert states[-1] == "succeeded", (states, text(events))
        assert json.loads(events[-1].data) == http.get(f"/api/v1/jobs/{job['id']}").json()
        assert events[-1].kind == "end"
        log = http.get(f"/api/v1/jobs/{job['id']}/logs").text
        assert text(events) == log
        assert "bundle" in log
        metrics = http.get(f"/api/v1/jobs/{job['id']}/metrics").json()
        assert metrics["final"]["test"]["auc"] > 0.5
        assert [json.loads(event.data) for event in events if event.kind == "metric"] == metrics["epochs"]
        # somebody whose connection broke goes on where it did
        half = next(event for event in events if event.kind == "log")
        assert text(follow(http, job["id"], **{"Last-Event-ID": half.id})) == log.encode()[int(half.id) :].decode()


def test_the_model_predicts_through_the_server(service, trained):
    events = {"ht": [500.0, 300.0], "met": [50.0, 20.0], "jet_pt": [[100.0, 80.0], [60.0]]}
    with service.client() as http, service.client(inference=True) as inference:
        answer = http.post("/api/v1/predictions", json={"model": "tth", "events": events})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["version"], len(found["scores"])) == (1, 2)
        assert found == inference.post("/predict/events", json={"model": "tth", "events": events}).json()
        answer = http.post("/api/v1/predictions", json={"model": "none", "events": events})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        archive = http.get("/api/v1/models/tth/versions/1/archive")
        with tarfile.open(fileobj=BytesIO(archive.content)) as packed_model:
            assert "tth/model.onnx" in packed_model.getnames()
        assert "<html" in http.get("/api/v1/models/tth/versions/1/report/index.html").text


def test_predictions_for_a_browser_carry_a_token_of_the_service(service, trained):
    """A browser has a cookie, which the inference service does not take."""
    with httpx.Client(base_url=service.server, timeout=60, trust_env=False) as browser:
        home = {"Origin": service.server, "Sec-Fetch-Site": "same-origin"}
        assert browser.post("/sign-in", data={"token": service.token}, headers=home).status_code in {200, 302, 303}
        assert browser.get("/api/v1/me").json()["tenant"] == "local"
        body = {"model": "tth", "events": {"ht": [500.0], "met": [50.0], "jet_pt": [[100.0]]}}
        assert browser.post("/api/v1/predictions", json=body, headers=home).status_code == 403  # not from a page of ours
        form = _form_token(browser)
        answer = browser.post("/api/v1/predictions", json=body, headers=home | {"X-CSRF-Token": form})
        assert answer.status_code == 200, answer.text


def _form_token(browser: httpx.Client) -> str:
    import re

    found = re.search(
        r'name="csrf"[^>]*value="([^"]+)"|"X-CSRF-Token": ?"([^"]+)"', browser.get("/").text.replace("&#34;", '"').replace("&quot;", '"')
    )
    assert found
    return found[1] or found[2]


def test_a_running_job_is_cancelled(service):
    with service.client() as http:
        job = submitted(http, model="slow.py")
        until = time.monotonic() + 120
        while "begins" not in http.get(f"/api/v1/jobs/{job['id']}/logs").text and time.monotonic() < until:
            time.sleep(0.1)
        assert http.delete(f"/api/v1/jobs/{job['id']}").status_code == 409
        assert http.post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 202
        assert service.finished(job["id"])["state"] == "cancelled"
        assert json.loads(follow(http, job["id"])[-1].data)["state"] == "cancelled"
        assert http.delete(f"/api/v1/jobs/{job['id']}").status_code == 204
        assert http.get(f"/api/v1/jobs/{job['id']}").status_code == 404


def test_the_figures_of_jobs(service, trained):
    with service.client() as http:
        lines = http.get("/metrics").text.splitlines()
        assert 'mlaas_jobs{state="succeeded"} 1.0' in lines
        seconds = next(line for line in lines if line.startswith("mlaas_job_cpu_seconds_total "))
        assert float(seconds.split()[1]) > 0
        assert any(line.startswith('mlaas_uploads_total{outcome="received"}') for line in lines)


def test_streams_end_and_jobs_go_on_when_the_server_stops(tmp_path, folder):
    with running(tmp_path / "data", jobs_go_on=True) as service:
        with service.client() as http:
            http.put("/api/v1/workspaces/tth", content=packed(folder)).raise_for_status()
            job = submitted(http, model="slow.py")
            ended: list[list[Message]] = []
            thread = threading.Thread(target=_follow_alone, args=(service, job["id"], ended))
            thread.start()
            until = time.monotonic() + 120
            while http.get(f"/api/v1/jobs/{job['id']}").json()["state"] != "running" and time.monotonic() < until:
                time.sleep(0.1)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        thread.join(30)
        assert not thread.is_alive()
        assert all(event.kind != "end" for event in ended[0])
    with running(tmp_path / "data") as service, service.client() as http:
        assert http.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "running"
        http.post(f"/api/v1/jobs/{job['id']}/cancel")
        assert service.finished(job["id"])["attempt"] == 1


def _follow_alone(service: Service, job: str, ended: list[list[Message]]) -> None:
    with service.client() as http:
        ended.append(follow(http, job))
