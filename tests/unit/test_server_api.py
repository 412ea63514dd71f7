"""API v1: what each call answers, to whom, and that nobody sees what is not theirs."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from fastapi import FastAPI

from mlaas.auth.identity import Identity
from mlaas.jobs.states import ENDED, State
from mlaas.models.bundle import Bundle, read_bundle, write_bundle
from mlaas.server.deps import Context
from mlaas.store import jobs
from tests.support import server, trained
from tests.support.server import ALICE, BOB, CAROL, TRAINING

HIGGS = Identity(tenant="dora-0123456789", subject="dora", issuer=ALICE.issuer, groups=frozenset({"/cms/higgs"}))


@pytest.fixture
def app(tmp_path) -> FastAPI:
    return server.application(tmp_path)


@pytest.fixture
def parts(app) -> Context:
    return app.state.context


@pytest.fixture
def alice(app):
    return server.client(app, ALICE)


@pytest.fixture
def bob(app):
    return server.client(app, BOB)


@pytest.fixture
def carol(app):
    return server.client(app, CAROL)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "m"
    report = tmp_path_factory.mktemp("report")
    (report / "index.html").write_text("<h1>report</h1>")
    write_bundle(folder, trained.logistic(), trained.DOCUMENTS, {"report": report})
    return read_bundle(folder)


@pytest.fixture
def publish(parts, bundle):
    def _publish(model: str = "ttH", versions: int = 1, tenant: str = ALICE.tenant) -> None:
        for _ in range(versions):
            parts.catalogue.repository.publish(bundle, tenant, model)

    return _publish


def problem(answer, status: int) -> dict:
    """The problem that an answer is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["detail"]
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


def test_who_one_is(alice, parts):
    server.job(parts)
    server.job(parts, state=State.RUNNING)
    found = alice.get("/api/v1/me").json()
    assert found["tenant"] == ALICE.tenant
    assert found["groups"] == ["/cms", "/cms/higgs"]
    assert (found["usage"]["queued"], found["usage"]["running"], found["usage"]["cpus"], found["usage"]["memory"]) == (1, 1, 1.0, 10**9)
    assert found["limits"] == {"jobs": 2, "cpus": None, "memory": None, "disk": 100 * 10**9}


def test_what_the_service_is_needs_no_token(app):
    found = server.client(app, None).get("/api/v1/service").json()
    assert found["auth"] == "token"
    assert found["inference_url"] == "http://127.0.0.1:8081"
    assert found["grpc_port"] == 8082


def test_everything_else_needs_one(app):
    anonymous = server.client(app, None)
    for path in ("me", "jobs", "jobs/x", "jobs/x/logs", "jobs/x/events", "workspaces", "workspaces/x/files/y", "models", "models/x"):
        assert "WWW-Authenticate" in anonymous.get(f"/api/v1/{path}").headers, path
        problem(anonymous.get(f"/api/v1/{path}"), 401)


# ---- workspaces


def test_a_workspace_from_upload_to_deletion(alice):
    made = server.upload(alice)
    assert (made["name"], made["generation"], made["files"]) == ("tth", 1, len(server.FOLDER))
    assert alice.get("/api/v1/workspaces").json() == {"items": [made], "next": None}
    assert alice.get("/api/v1/workspaces/tth").json() == made
    files = alice.get("/api/v1/workspaces/tth/files").json()["items"]
    assert [file["path"] for file in files] == sorted(server.FOLDER)
    answer = alice.get("/api/v1/workspaces/tth/files/model.py")
    assert answer.text == server.MODEL
    assert "sandbox" in answer.headers["content-security-policy"]
    assert alice.delete("/api/v1/workspaces/tth").status_code == 204
    problem(alice.get("/api/v1/workspaces/tth"), 404)
    problem(alice.delete("/api/v1/workspaces/tth"), 404)


def test_a_body_of_its_own_and_preconditions(alice):
    put = {"url": "/api/v1/workspaces/tth", "content": server.archive(server.FOLDER)}
    first = alice.put(**put, headers={"Content-Type": "application/gzip", "If-None-Match": "*"})
    assert first.status_code == 201
    assert first.headers["location"] == "/api/v1/workspaces/tth"
    problem(alice.put(**put, headers={"If-None-Match": "*"}), 412)
    second = alice.put(**put, headers={"If-Match": first.headers["etag"]})
    assert second.json()["generation"] == 2
    problem(alice.put(**put, headers={"If-Match": first.headers["etag"]}), 412)
    problem(alice.delete("/api/v1/workspaces/tth", headers={"If-Match": first.headers["etag"]}), 412)
    assert alice.get("/api/v1/workspaces/tth").headers["etag"] == second.headers["etag"]
    assert alice.delete("/api/v1/workspaces/tth", headers={"If-Match": second.headers["etag"]}).status_code == 204


def test_workspaces_come_in_pages(alice):
    for name in "cab":
        server.upload(alice, name)
    first = alice.get("/api/v1/workspaces?limit=2").json()
    second = alice.get("/api/v1/workspaces", params={"limit": 2, "cursor": first["next"]}).json()
    assert [item["name"] for page in (first, second) for item in page["items"]] == ["a", "b", "c"]
    assert second["next"] is None
    names = []
    cursor = ""
    while cursor is not None:
        page = alice.get("/api/v1/workspaces/a/files", params={"limit": 4, "cursor": cursor}).json()
        names += [item["path"] for item in page["items"]]
        cursor = page["next"]
    assert names == sorted(server.FOLDER)


def test_specs_of_a_workspace_are_deleted(alice):
    server.upload(alice, files=server.FOLDER | {"specs-s.json": "{}", "specs-b.json": "{}"})
    assert alice.delete("/api/v1/workspaces/tth/specs").json() == {"deleted": 2}
    assert alice.get("/api/v1/workspaces/tth").json()["files"] == len(server.FOLDER)


def test_ranges_and_validators_of_files(alice):
    server.upload(alice)
    url = "/api/v1/workspaces/tth/files/files.txt"
    whole = alice.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    part = alice.get(url, headers={"Range": "bytes=2-5", "If-Range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert alice.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = alice.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole.content)))
    problem(alice.get(url, headers={"Range": "bytes=99999-"}), 416)
    problem(alice.get(url, headers={"Range": "lines=1-2"}), 400)


@pytest.mark.parametrize(
    "path", ["../files.txt", "%2e%2e/files.txt", "..%2f..%2fmlaas.db", "/etc/passwd", "%2fetc%2fpasswd", "a%00b", "no.txt", "a/" * 300]
)
def test_files_that_are_not_there(alice, path):
    server.upload(alice)
    problem(alice.get(f"/api/v1/workspaces/tth/files/{path}"), 404)


# ---- jobs


def test_a_job_is_queued(alice, parts):
    server.upload(alice)
    answer = alice.post("/api/v1/jobs", json=TRAINING | {"cpus": "1", "memory": "1gb"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["state"], made["process_name"], made["model"], made["kind"], made["memory"]) == ("queued", "tth_1", "tth", "train", 10**9)
    assert made["owner"] is None
    assert answer.headers["location"] == f"/api/v1/jobs/{made['id']}"
    assert alice.get(answer.headers["location"]).json() == made
    assert alice.get("/api/v1/jobs/tth_1").json() == made
    assert jobs.get(parts.engine, made["id"]).groups == ["/cms", "/cms/higgs"]


def test_the_same_key_submits_once(alice, bob):
    server.upload(alice)
    server.upload(bob)
    key = {"Idempotency-Key": "abc"}
    first = alice.post("/api/v1/jobs", json=TRAINING, headers=key)
    again = alice.post("/api/v1/jobs", json=dict(reversed(TRAINING.items())), headers=key)
    assert first.json() == again.json()
    problem(alice.post("/api/v1/jobs", json=TRAINING | {"cpus": 1}, headers=key), 409)
    assert bob.post("/api/v1/jobs", json=TRAINING, headers=key).json()["id"] != first.json()["id"]
    assert len(alice.get("/api/v1/jobs").json()["items"]) == 1


def test_the_same_key_finds_its_job_when_the_workspace_is_gone(alice):
    server.upload(alice)
    key = {"Idempotency-Key": "abc"}
    first = alice.post("/api/v1/jobs", json=TRAINING, headers=key)
    assert alice.delete(f"/api/v1/workspaces/{TRAINING['workspace']}").is_success
    assert alice.post("/api/v1/jobs", json=TRAINING, headers=key).json()["id"] == first.json()["id"]
    problem(alice.post("/api/v1/jobs", json=TRAINING, headers={"Idempotency-Key": "other"}), 422)


def test_a_full_queue_is_told(tmp_path):
    app = server.application(tmp_path, queue_limit=1)
    alice = server.client(app, ALICE)
    server.upload(alice)
    assert alice.post("/api/v1/jobs", json=TRAINING).status_code == 201
    assert "Retry-After" in alice.post("/api/v1/jobs", json=TRAINING).headers
    problem(alice.post("/api/v1/jobs", json=TRAINING), 429)


def test_jobs_are_listed_newest_first_in_pages_and_filtered(alice, parts):
    made = [server.job(parts, state=state, process=process) for process in ("a", "b") for state in State]
    numbers, cursor = [], ""
    while cursor is not None:
        page = alice.get("/api/v1/jobs", params={"limit": 3, "cursor": cursor}).json()
        numbers += [item["number"] for item in page["items"]]
        cursor = page["next"]
    assert numbers == sorted((job.number for job in made), reverse=True)
    found = alice.get("/api/v1/jobs", params={"state": ["running", "failed"]}).json()["items"]
    assert {item["state"] for item in found} == {"running", "failed"}
    assert len(found) == 4
    assert alice.get("/api/v1/jobs?kind=predict").json()["items"] == []
    assert len(alice.get("/api/v1/jobs?model=a_1").json()["items"]) == 1
    problem(alice.get("/api/v1/jobs?state=lost"), 422)
    problem(alice.get("/api/v1/jobs?limit=201"), 422)
    problem(alice.get("/api/v1/jobs?limit=0"), 422)
    assert problem(alice.get("/api/v1/jobs?cursor=%00"), 422)["field"] == "cursor"


@pytest.mark.parametrize("state", State)
def test_cancel_and_delete_by_state(alice, parts, state):
    job = server.job(parts, state=state)
    (parts.places.job(job.id) / "log.txt").write_text("line\n")
    deleted = alice.delete(f"/api/v1/jobs/{job.id}")
    if state in ENDED:
        assert deleted.status_code == 204
        assert not parts.places.job(job.id).exists()
        problem(alice.get(f"/api/v1/jobs/{job.id}"), 404)
        return
    problem(deleted, 409)
    cancelled = alice.post(f"/api/v1/jobs/{job.id}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.json()["state"] == ("cancelled" if state == State.QUEUED else state)
    assert alice.post(f"/api/v1/jobs/{job.id}/cancel").status_code == 202


@pytest.mark.parametrize("state", sorted(ENDED - {State.CANCELLED}))
def test_what_has_ended_cannot_be_cancelled(alice, parts, state):
    problem(alice.post(f"/api/v1/jobs/{server.job(parts, state=state).id}/cancel"), 409)


def test_logs(alice, parts):
    job = server.job(parts, state=State.RUNNING)
    url = f"/api/v1/jobs/{job.id}/logs"
    assert alice.get(url).text == ""
    (parts.places.job(job.id) / "log.txt").write_bytes(b"one\ntwo\n\xff\nfour")
    assert alice.get(url).content == b"one\ntwo\n\xff\nfour"
    assert alice.get(url, params={"tail": 2}).content == b"\xff\nfour"
    assert alice.get(url, params={"tail": 0}).content == b""
    assert alice.get(url).headers["content-type"] == "text/plain; charset=utf-8"
    assert alice.head(url).headers["content-length"] == "14"


def test_a_log_that_is_a_link_is_not_read(alice, parts, tmp_path):
    job = server.job(parts, state=State.SUCCEEDED)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (parts.places.job(job.id) / "log.txt").symlink_to(secret)
    assert alice.get(f"/api/v1/jobs/{job.id}/logs").text == ""
    result = parts.places.job(job.id) / "result"
    result.mkdir()
    (result / "scores").symlink_to(secret)
    (result / "there.txt").write_text("there")
    assert [file["path"] for file in alice.get(f"/api/v1/jobs/{job.id}/output").json()["items"]] == ["there.txt"]
    assert alice.get(f"/api/v1/jobs/{job.id}/output/there.txt").text == "there"
    problem(alice.get(f"/api/v1/jobs/{job.id}/output/scores"), 404)


def test_what_was_removed_after_its_time_is_told(alice, parts):
    job = server.job(parts, state=State.SUCCEEDED, purged=True)
    for what in ("logs", "metrics", "output"):
        assert "30 days" in problem(alice.get(f"/api/v1/jobs/{job.id}/{what}"), 404)["detail"]


def test_metrics_of_a_job(alice, parts):
    job = server.job(parts, state=State.SUCCEEDED)
    result = parts.places.job(job.id) / "result"
    result.mkdir()
    assert alice.get(f"/api/v1/jobs/{job.id}/metrics").json() == {"epochs": [], "final": {}}
    (result / "metrics.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": NaN}\n')
    (result / "metrics.json").write_text(json.dumps({"metrics": {"test": {"auc": 0.9}}}))
    found = alice.get(f"/api/v1/jobs/{job.id}/metrics").json()
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2]
    assert found["epochs"][1]["loss"] is None
    assert found["final"]["test"]["auc"] == 0.9


def test_events_of_a_job_that_has_ended(alice, parts):
    job = server.job(parts, state=State.SUCCEEDED)
    (parts.places.job(job.id) / "log.txt").write_text("one\ntwo\n")
    answer = alice.get(f"/api/v1/jobs/{job.id}/events", headers={"Last-Event-ID": "4"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "data: two" in answer.text
    assert "data: one" not in answer.text
    assert answer.text.rstrip().split("event: ")[-1].startswith("end")
    problem(alice.get(f"/api/v1/jobs/{job.id}/events", headers={"Last-Event-ID": "x"}), 422)


def test_jobs_of_others_are_not_there(bob, carol, parts):
    job = server.job(parts, state=State.SUCCEEDED)
    for path in ("", "/logs", "/events", "/metrics", "/output", "/output/x"):
        theirs = problem(bob.get(f"/api/v1/jobs/{job.id}{path}"), 404)
        nobodys = problem(bob.get(f"/api/v1/jobs/{'0' * 16}{path}"), 404)
        assert theirs["detail"].replace(job.id, "") == nobodys["detail"].replace("0" * 16, "")
    problem(bob.get(f"/api/v1/jobs/{job.process_name}"), 404)
    problem(bob.post(f"/api/v1/jobs/{job.id}/cancel"), 404)
    problem(bob.delete(f"/api/v1/jobs/{job.id}"), 404)
    problem(bob.get(f"/api/v1/jobs?tenant={ALICE.tenant}"), 403)
    problem(bob.get("/api/v1/jobs?tenant=*"), 403)
    assert bob.get("/api/v1/jobs").json()["items"] == []
    assert carol.get("/api/v1/jobs").json()["items"] == []
    assert [item["owner"] for item in carol.get("/api/v1/jobs?tenant=*").json()["items"]] == [ALICE.tenant]
    assert carol.get(f"/api/v1/jobs/{job.process_name}", params={"tenant": ALICE.tenant}).json()["id"] == job.id
    assert carol.get(f"/api/v1/jobs/{job.id}").status_code == 200


def test_administrators_see_which_worker_has_a_job(alice, carol, parts):
    job = server.job(parts, state=State.RUNNING)
    assert carol.get(f"/api/v1/jobs/{job.id}").json()["worker"] is None
    assert jobs.update(parts.engine, job.id, worker="train-2") is not None
    assert carol.get(f"/api/v1/jobs/{job.id}").json()["worker"] == "train-2"
    assert alice.get(f"/api/v1/jobs/{job.id}").json()["worker"] is None


def test_workspaces_of_others_are_not_there(alice, bob, carol):
    server.upload(alice)
    for call in (bob.get, bob.delete):
        problem(call("/api/v1/workspaces/tth"), 404)
    problem(bob.get("/api/v1/workspaces/tth/files/model.py"), 404)
    problem(bob.delete("/api/v1/workspaces/tth/specs"), 404)
    problem(bob.get(f"/api/v1/workspaces/tth?tenant={ALICE.tenant}"), 403)
    assert problem(bob.post("/api/v1/jobs", json=TRAINING), 422)["field"] == "workspace"
    assert carol.get(f"/api/v1/workspaces/tth?tenant={ALICE.tenant}").status_code == 200


# ---- models


def test_models_versions_and_aliases(alice, publish):
    publish(versions=3)
    publish("other")
    listed = alice.get("/api/v1/models").json()["items"]
    assert [item["name"] for item in listed] == ["other", "ttH"]
    assert (listed[1]["latest"], listed[1]["versions"], listed[1]["shared"]) == (3, [1, 2, 3], False)
    assert [item["version"] for item in alice.get("/api/v1/models/ttH/versions?limit=2").json()["items"]] == [3, 2]
    assert alice.put("/api/v1/models/ttH/aliases/production", json={"version": 2}).json()["aliases"] == {"production": 2}
    found = alice.get("/api/v1/models/ttH/versions/production").json()
    assert (found["version"], found["aliases"], found["framework"]) == (2, ["production"], "sklearn")
    assert found["size"] > 100
    assert alice.delete("/api/v1/models/ttH/aliases/production").status_code == 204
    problem(alice.get("/api/v1/models/ttH/versions/production"), 404)
    problem(alice.put("/api/v1/models/ttH/aliases/production", json={"version": 9}), 404)
    problem(alice.put("/api/v1/models/ttH/aliases/latest", json={"version": 1}), 400)
    assert alice.delete("/api/v1/models/ttH/versions/3").status_code == 204
    assert alice.get("/api/v1/models/ttH").json()["versions"] == [1, 2]
    assert alice.delete("/api/v1/models/ttH").status_code == 204
    problem(alice.get("/api/v1/models/ttH"), 404)


def test_card_report_and_archive(alice, publish, bundle, tmp_path):
    publish(versions=2)
    card = alice.get("/api/v1/models/ttH/versions/latest/card").json()
    assert (card["manifest"]["name"], card["manifest"]["version"]) == ("ttH", 2)
    assert "model.onnx" in card["files"]
    report = alice.get("/api/v1/models/ttH/versions/2/report/")
    assert report.text == "<h1>report</h1>"
    assert report.headers["content-security-policy"].startswith("sandbox")
    assert "inline" in report.headers["content-disposition"]
    problem(alice.get("/api/v1/models/ttH/versions/2/report/%2e%2e/manifest.json"), 404)
    answer = alice.get("/api/v1/models/ttH/versions/2/archive")
    assert answer.headers["content-disposition"] == 'attachment; filename="ttH-2.tar.gz"'
    with tarfile.open(fileobj=BytesIO(answer.content)) as packed:
        assert {name.split("/")[0] for name in packed.getnames()} == {"ttH"}
    going_on = alice.get(answer.url, headers={"Range": "bytes=100-", "If-Range": answer.headers["etag"]})
    assert (going_on.status_code, going_on.content) == (206, answer.content[100:])
    assert server.leftovers(tmp_path) == []


def test_sharing_with_a_group(app, alice, bob, carol, publish):
    publish(versions=2)
    dora = server.client(app, HIGGS)
    problem(dora.get(f"/api/v1/models/{ALICE.tenant}:ttH"), 404)
    assert alice.post("/api/v1/models/ttH/shares", json={"group": "/cms/higgs"}).json()["groups"] == ["/cms/higgs"]
    name = f"{ALICE.tenant}:ttH"
    assert [(item["name"], item["shared"], item["groups"]) for item in dora.get("/api/v1/models").json()["items"]] == [(name, True, [])]
    assert dora.get(f"/api/v1/models/{name}/versions/1/card").status_code == 200
    assert dora.get("/api/v1/models/ttH").json()["name"] == name
    for call in (
        alice.post("/api/v1/models/ttH/shares", json={"group": "/atlas"}),  # she is not in it
        dora.delete(f"/api/v1/models/{name}"),
        dora.delete(f"/api/v1/models/{name}/versions/1"),
        dora.put(f"/api/v1/models/{name}/aliases/a", json={"version": 1}),
        dora.post(f"/api/v1/models/{name}/shares", json={"group": "/x"}),
    ):
        problem(call, 403)
    problem(bob.get(f"/api/v1/models/{name}"), 404)
    assert [item["name"] for item in carol.get("/api/v1/models?tenant=*").json()["items"]] == [name]
    assert carol.put(f"/api/v1/models/{name}/aliases/a", json={"version": 1}).status_code == 200
    assert carol.post(f"/api/v1/models/{name}/shares", json={"group": "/atlas"}).json()["groups"] == ["/atlas", "/cms/higgs"]
    assert alice.delete("/api/v1/models/ttH/shares", params={"group": "/cms/higgs"}).status_code == 204
    problem(dora.get(f"/api/v1/models/{name}"), 404)
    problem(alice.delete("/api/v1/models/ttH/shares", params={"group": "/cms/higgs"}), 404)


def test_models_of_others_are_not_there(bob, publish):
    publish()
    for path in ("", "/versions", "/versions/1", "/versions/1/card", "/versions/1/archive", "/versions/1/report/index.html"):
        theirs = problem(bob.get(f"/api/v1/models/{ALICE.tenant}:ttH{path}"), 404)["detail"]
        assert theirs.replace("ttH", "") == problem(bob.get(f"/api/v1/models/{ALICE.tenant}:none{path}"), 404)["detail"].replace("none", "")
    problem(bob.delete(f"/api/v1/models/{ALICE.tenant}:ttH"), 404)


# ---- predictions, scopes


def test_predictions_need_the_inference_service(tmp_path):
    app = server.application(tmp_path, inference_url="http://127.0.0.1:9")
    alice = server.client(app, ALICE)
    answer = alice.post("/api/v1/predictions", json={"model": "m", "events": {"x": [1]}})
    assert answer.headers["Retry-After"]
    assert "inference service" in problem(answer, 503)["detail"]
    problem(alice.post("/api/v1/predictions", content="x=1", headers={"Content-Type": "application/x-www-form-urlencoded"}), 415)


@pytest.mark.parametrize("scope", ["read", "create", "modify", "cancel"])
def test_scopes_of_the_token(app, parts, publish, scope):
    publish()
    identity = Identity(**{name: getattr(ALICE, name) for name in ("tenant", "subject", "issuer")}, scopes=frozenset({f"compute.{scope}", "openid"}))
    http, running = server.client(app, identity), server.job(parts, state=State.RUNNING)
    needed = {
        "read": [("GET", "/jobs"), ("GET", f"/jobs/{running.id}/logs"), ("GET", "/models"), ("GET", "/me"), ("POST", "/predictions")],
        "create": [("POST", "/jobs"), ("POST", "/workspaces?name=x"), ("PUT", "/workspaces/x")],
        "modify": [("DELETE", f"/jobs/{running.id}"), ("DELETE", "/workspaces/x"), ("PUT", "/models/ttH/aliases/a"), ("DELETE", "/models/none")],
        "cancel": [("POST", f"/jobs/{running.id}/cancel")],
    }
    for action, calls in needed.items():
        for method, path in calls:
            answer = http.request(method, f"/api/v1{path}", json={} if method in {"POST", "PUT"} else None)
            assert (answer.status_code == 403) == (action != scope), (action, method, path, answer.text)
            if action != scope:
                assert "insufficient_scope" in answer.headers["www-authenticate"]


def test_health_and_metrics(app, parts, alice, carol):
    server.job(parts, state=State.RUNNING)
    anonymous = server.client(app, None, client=("127.0.0.1", 1))
    assert anonymous.get("/healthz").json() == {"status": "ok"}
    assert anonymous.get("/readyz").json() == {"status": "ready"}
    text = anonymous.get("/metrics").text
    assert 'mlaas_jobs{state="running"} 1.0' in text
    assert "mlaas_job_cpu_seconds_total 0.0" in text


def test_unknown_addresses_and_methods(alice):
    problem(alice.get("/api/v1/nothing"), 404)
    assert "GET" in alice.put("/api/v1/jobs").headers["allow"]
    problem(alice.put("/api/v1/jobs"), 405)


def test_the_document_is_served(app):
    answer = server.client(app, None).get("/openapi.json")
    assert answer.json()["info"]["title"] == "MLaaS4HEP"


def test_the_database_is_not_readable_by_others(app, tmp_path: Path):
    for path in (tmp_path / "data").rglob("*"):
        assert not path.stat().st_mode & 0o077, path
