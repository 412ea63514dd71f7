"""What the services share of HTTP: errors, callers, request ids, limits, logs without secrets, metrics, health."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import re
import sys
import threading
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import mlaas
from mlaas.auth.errors import AuthError
from mlaas.auth.identity import Identity
from mlaas.errors import BundleError, MLaaSError, ResourceError, WorkflowError
from mlaas.settings import Settings
from mlaas.web import errors, health, identify, logs, metrics, middleware, redact, stopping
from mlaas.web.problem import Problem

HERE = "http://mlaas.test"


class Inner(BaseModel):
    epochs: int


class Document(BaseModel):
    name: str
    params: Inner | None = None


class FullError(MLaaSError):
    """An error that says its status."""

    status = 429


RAISED = {
    "problem": (Problem(409, "It runs.", field="id"), 409, {"detail": "It runs.", "field": "id", "title": "Conflict"}),
    "workflow": (WorkflowError("params.epochs: must be positive"), 422, {"field": "params.epochs"}),
    "sentence": (WorkflowError("the file labels.txt: is missing"), 422, {}),
    "bundle": (BundleError("there is no model x"), 400, {"detail": "there is no model x"}),
    "resource": (ResourceError("the disk is full"), 507, {}),
    "own": (FullError("too many jobs"), 429, {}),
    "service": (MLaaSError("the database does not answer"), 503, {}),
    "auth": (AuthError("the token has expired"), 401, {"title": "Not signed in"}),
    "forbidden": (AuthError("not you", status=403, error="insufficient_scope"), 403, {}),
    "teapot": (HTTPException(418, "short and stout"), 418, {"detail": "short and stout"}),
    "fault": (RuntimeError("secret detail"), 500, {"title": "Internal error"}),
}


@pytest.fixture
def app(tmp_path):
    made = FastAPI(openapi_url=None)
    settings = Settings(data=tmp_path / "data", public_url="https://ml.example.org", metrics_token_file=None)
    identify.install(made, settings)
    errors.install(made)
    made.add_middleware(middleware.Requests, limit=lambda scope: 5000 if scope["path"] == "/big" else None if scope["path"] == "/stream" else 1000)
    made.router.routes.extend(health.routes({"disk": lambda: None}, settings))

    @made.get("/raise/{name}")
    async def raises(name: str) -> None:
        raise RAISED[name][0]

    @made.api_route("/me", methods=["GET", "POST", "DELETE"])
    async def me(who: identify.Caller) -> dict[str, object]:
        return {"tenant": who.tenant, "browser": who.browser}

    @made.post("/document")
    async def document(body: Document) -> str:
        return body.name

    @made.post("/big")
    @made.post("/small")
    @made.post("/stream")
    async def read(request: Request) -> int:
        return len(await request.body())

    @made.post("/swallow")
    async def swallow(request: Request) -> str:
        try:
            await request.body()
        except Exception:
            return "never mind"
        return "all read"

    @made.get("/count")
    async def count(number: int) -> int:
        return number

    return made


@pytest.fixture
def ask(app):
    def send(method, path, address="10.1.2.3", **options):
        async def run():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 5000))
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return send


@pytest.fixture
def door(app):
    return identify.authenticator(app)


@pytest.mark.parametrize("name", RAISED)
def test_errors_are_problems(ask, name, caplog):
    _, status, expected = RAISED[name]
    answer = ask("GET", f"/raise/{name}", headers={"X-Request-ID": "abc-1"})
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == document["request_id"] == "abc-1"
    assert expected.items() <= document.items()
    assert set(document) <= {"type", "title", "status", "detail", "field", "request_id"}
    assert "Traceback" not in answer.text
    assert "secret detail" not in answer.text
    assert ("secret detail" in caplog.text) == (name == "fault")
    assert ("www-authenticate" in answer.headers) == (status in {401, 403})
    assert ("retry-after" in answer.headers) == (status in {429, 503})


def test_unknown_addresses(ask):
    assert ask("GET", "/nothing").json()["detail"] == "There is nothing at this address."
    answer = ask("PUT", "/me")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("body", "status", "field", "sentence"),
    [
        ({"params": {"epochs": 1}}, 422, "name", "name: is missing"),
        ({"name": "x", "params": {"epochs": "many"}}, 422, "params.epochs", "params.epochs: must be a valid integer"),
        ({"name": 5, "params": 7}, 422, "name", "(and 1 more)"),
        ([], 422, None, "the body: must be a JSON object"),
    ],
)
def test_documents_that_are_wrong(ask, body, status, field, sentence):
    answer = ask("POST", "/document", json=body)
    assert answer.status_code == status
    assert answer.json().get("field") == field
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize("body", ["{", '{"name": ', "\x00", "[1,"])
def test_bodies_that_are_no_json(ask, body):
    answer = ask("POST", "/document", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_query_that_is_wrong(ask):
    assert ask("GET", "/count?number=x").json()["field"] == "number"


@pytest.mark.parametrize(("path", "size", "status"), [("/small", 1000, 200), ("/small", 1001, 413), ("/big", 5000, 200), ("/big", 5001, 413)])
def test_the_limit_of_a_body(ask, path, size, status):
    async def chunks():
        for _ in range(size):
            yield b"x"

    assert ask("POST", path, content=b"x" * size).status_code == status
    answer = ask("POST", path, content=chunks())
    assert answer.status_code == status
    assert status == 200 or answer.json()["detail"] == f"The body is larger than {'1 kB' if path == '/small' else '5 kB'}."


def test_a_route_that_counts_itself_has_no_limit(ask):
    assert ask("POST", "/stream", content=b"x" * 10_000).json() == 10_000


def test_a_route_that_swallows_errors_answers_413_nonetheless(ask):
    async def chunks():
        for _ in range(20):
            yield b"x" * 100

    assert ask("POST", "/swallow", content=chunks()).status_code == 413


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\tb", '"', "é"])
def test_a_request_id_that_is_none_is_replaced(ask, given):
    headers = {"X-Request-ID": given.encode("latin1")} if given else {}
    assert re.fullmatch("[0-9a-f]{16}", ask("GET", "/healthz", headers=headers).headers["x-request-id"])


def test_browsers_are_told_to_be_careful(ask):
    headers = ask("GET", "/me").headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


# ---- who is asking
WHO = Identity("tenant-1", "sub", "iss", roles=frozenset({"user"}))
ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def cookie(door):
    return {"Cookie": f"__Host-{identify.COOKIE}={door.seal(WHO)}"}


def bearer(door):
    return {"Authorization": f"Bearer {door.internal_token(WHO)}"}


def test_a_bearer_token(ask, door):
    assert ask("POST", "/me", headers=bearer(door)).json() == {"tenant": "tenant-1", "browser": False}


def test_a_bearer_token_comes_before_a_cookie(ask, cookie, door):
    assert ask("POST", "/me", headers=cookie | bearer(door)).json()["browser"] is False
    assert ask("GET", "/me", headers=cookie | {"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize("value", ["Basic eDp5", "Bearer", "Bearer ", "token", "Bearer a b", ""])
def test_other_ways_to_authorise_are_refused(ask, value):
    answer = ask("GET", "/me", headers={"Authorization": value})
    assert answer.status_code == 401
    assert "error=" in answer.headers["www-authenticate"]


def test_two_authorisations_are_refused(ask, door):
    token = bearer(door)["Authorization"]
    assert ask("GET", "/me", headers=[("Authorization", token), ("Authorization", token)]).status_code == 401


def test_without_anything_the_challenge_names_no_error(ask):
    answer = ask("GET", "/me")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="mlaas"'


def test_a_session_reads(ask, cookie):
    assert ask("GET", "/me", headers=cookie).json() == {"tenant": "tenant-1", "browser": True}
    assert ask("GET", "/me", headers={"Cookie": f"{identify.COOKIE}=x; __Host-{identify.COOKIE}=wrong"}).status_code == 401


def form(door, **fields):
    return {"data": {identify.FORM_FIELD: door.form_token(WHO)} | fields}


def test_a_form_of_our_own_page_writes(ask, cookie, door):
    header = {identify.FORM_HEADER: door.form_token(WHO)}
    assert ask("POST", "/me", headers=cookie | ORIGIN, **form(door)).json()["browser"]
    assert ask("DELETE", "/me", headers=cookie | ORIGIN | header).status_code == 200
    assert ask("POST", "/me", headers=cookie | {"Origin": "https://ml.example.org"} | header).status_code == 200
    assert ask("POST", "/me", headers=cookie | {"Origin": HERE} | header).status_code == 200
    upload = {"files": {"file": b"x"}}
    assert ask("POST", f"/me?{identify.FORM_FIELD}={door.form_token(WHO)}", headers=cookie | ORIGIN, **upload).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}]
    + [{"Origin": origin} for origin in ("https://evil.example.org", "null", "", "https://ml.example.org.evil.org", "://", "http://mlaas.test:81")]
    + [{"Sec-Fetch-Site": "cross-site", "Origin": "https://ml.example.org"}],
    ids=str,
)
def test_a_page_of_somebody_else_cannot_write(ask, cookie, door, headers):
    answer = ask("POST", "/me", headers=cookie | headers, **form(door))
    assert answer.status_code == 403
    assert "not sent by a page of this service" in answer.json()["detail"]


@pytest.mark.parametrize("fields", [{}, {"csrf": ""}, {"csrf": "x"}, {"other": "x"}], ids=str)
def test_a_form_without_the_pages_token_cannot_write(ask, cookie, door, fields):
    assert ask("POST", "/me", headers=cookie | ORIGIN, data=fields).status_code == 403
    assert ask("POST", "/me", headers=cookie | ORIGIN, json=fields).status_code == 403
    other = door.form_token(Identity("tenant-2", "other", "iss"))
    assert ask("POST", "/me", headers=cookie | ORIGIN, data={"csrf": other}).status_code == 403
    assert ask("POST", f"/me?csrf={door.form_token(WHO)}", headers=cookie | ORIGIN, data=fields).status_code == 403


def test_what_a_gateway_passes_on_is_a_browser(ask, door):
    passed = {identify.FORWARDED: door.internal_token(WHO)}
    assert ask("GET", "/me", headers=passed).json() == {"tenant": "tenant-1", "browser": True}
    assert ask("POST", "/me", headers=passed).status_code == 403
    assert ask("POST", "/me", headers=passed | ORIGIN, **form(door)).status_code == 200
    assert ask("GET", "/me", headers={identify.FORWARDED: "forged"}).status_code == 401


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_bearer_token_that_a_gateway_put_on_a_strangers_request(ask, door, site):
    assert ask("POST", "/me", headers=bearer(door) | {"Sec-Fetch-Site": site}).status_code == 403
    assert ask("GET", "/me", headers=bearer(door) | {"Sec-Fetch-Site": site}).status_code == 200


# ---- health and metrics
def test_health(ask, monkeypatch):
    assert ask("GET", "/healthz").json() == {"status": "ok"}
    assert ask("GET", "/readyz").json() == {"status": "ready"}
    monkeypatch.setattr(stopping, "_asked", type("Set", (), {"is_set": lambda _self: True})())
    answer = ask("GET", "/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, "The service is stopping.")
    assert ask("GET", "/healthz").status_code == 200


@pytest.mark.parametrize(
    ("error", "sentence"), [(MLaaSError("no answer"), "disk: no answer"), (ValueError("secret"), "disk: it does not answer as it should")]
)
def test_readiness_names_what_is_missing(error, sentence, caplog):
    def check():
        raise error

    route = health.routes({"disk": check}, Settings())[1]
    with pytest.raises(Problem, match=sentence) as caught:
        asyncio.run(route.endpoint(None))
    assert caught.value.status == 503


def test_who_may_read_metrics(ask, app, door, tmp_path):
    assert ask("GET", "/metrics").status_code == 401
    assert ask("GET", "/metrics", headers=bearer(door)).status_code == 403
    assert "mlaas_http_requests_total" in ask("GET", "/metrics", address="127.0.0.1").text
    assert ask("GET", "/metrics", address="127.0.0.1", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401
    admin = Identity("t", "s", "i", roles=frozenset({"user", "admin"}))
    assert ask("GET", "/metrics", headers={"Authorization": f"Bearer {door.internal_token(admin)}"}).status_code == 200
    token = tmp_path / "metrics-token"
    token.write_text("t" * 30)
    token.chmod(0o600)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") != "/metrics"]
    app.router.routes.extend(health.routes({}, Settings(metrics_token_file=token))[2:])
    assert ask("GET", "/metrics", address="127.0.0.1").status_code == 401
    assert ask("GET", "/metrics", headers={"Authorization": "Bearer " + "t" * 30}).status_code == 200
    assert ask("GET", "/metrics", headers={"Authorization": "Bearer " + "u" * 30}).status_code == 401


def test_requests_are_counted_by_route(ask, door):
    def value(line):
        found = re.search(rf"^{re.escape(line)} (\d+)", metrics.exposition().decode(), re.MULTILINE)
        return int(found[1]) if found else 0

    counter = 'mlaas_http_requests_total{method="GET",'
    ok, missing = f'{counter}route="/raise/{{name}}",status="409"}}', f'{counter}route="unmatched",status="404"}}'
    before = value(ok), value(missing)
    ask("GET", "/raise/problem")
    ask("GET", "/raise/problem")
    ask("GET", "/alice/secret-model")
    assert (value(ok), value(missing)) == (before[0] + 2, before[1] + 1)
    assert "secret-model" not in metrics.exposition().decode()
    assert value("mlaas_http_requests_running") == 0


def declared() -> set[str]:
    """The names of all metrics that the package declares."""
    made = {"Counter", "Gauge", "Histogram", "Summary", "Info", "CounterMetricFamily", "GaugeMetricFamily", "HistogramMetricFamily"}
    found = set()
    for path in Path(mlaas.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in made and node.args and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return found


def test_every_metric_is_in_the_table():
    text = (Path(mlaas.__file__).parent / "web" / "README.md").read_text()
    table = set(re.findall(r"^\| `(mlaas_\w+)` \|", text, re.MULTILINE))
    assert declared() == table
    assert all(name.startswith("mlaas_") for name in declared())
    assert "mlaas_http_requests_total" in table


# ---- logs
def logged(settings=None, part="server", log=lambda logger: None):
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    hooks = sys.excepthook, threading.excepthook
    try:
        logs.configure(settings or Settings(), part, stream)
        log(logging.getLogger("mlaas.test"))
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
        sys.excepthook, threading.excepthook = hooks
    return stream.getvalue()


TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6InQifQ.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl_-x"  # noqa: S105
EMBEDDED = "mlaas_" + "Ab3-_" * 9
SECRETS = {
    f"Authorization: Bearer {TOKEN}": TOKEN,
    f"failed for {TOKEN}, try again": TOKEN,
    f"open http://127.0.0.1:8080/?token={EMBEDDED} now": EMBEDDED,
    EMBEDDED: EMBEDDED,
    "postgresql://mlaas:hunter2hunter2@db/mlaas": "hunter2",
    "https://user@host/x": "user@",
    "s3://KEY:SECRETSECRET@bucket/x": "SECRETSECRET",
    "password=hunter2 rest": "hunter2",
    "?X-Amz-Signature=abcdef123&x=1": "abcdef123",
    "root://host//f?authz=Bearer%20abcdefgh": "abcdefgh",
    '{"client_secret": "hunter\\"2", "a": 1}': "hunter",
    "{'access_token': 'hunter2'}": "hunter2",
    "Cookie: mlaas_session=abc; other=def": "abc",
    "X-Forwarded-Access-Token: abcdef": "abcdef",
    "basic QWxhZGRpbjpvcGVu": "QWxhZGRpbjpvcGVu",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----": "MIIE",
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_hidden(text):
    hidden = redact.redact(text)
    assert SECRETS[text] not in hidden
    assert redact.HIDDEN in hidden
    assert redact.redact(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "the token has expired; sign in again",
        "POST /api/v1/jobs",
        "mlaas_http_requests_total",
        "root://eospublic.cern.ch//eos/x.root",
        "params.epochs: must be positive",
        "listening on http://127.0.0.1:8080",
        "alice@example.org submitted luca_1",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact.redact(text) == text


@given(st.text(max_size=40), st.from_regex(r"[A-Za-z0-9_.~+/-]{12,60}", fullmatch=True), st.text(max_size=40))
def test_a_known_secret_never_gets_through(before, secret, after):
    redact.conceal(secret)
    try:
        assert secret not in redact.redact(f"{before}{secret}{after}").replace(redact.HIDDEN, "\0")
    finally:
        redact._known.discard(secret)


def test_a_json_line():
    def log(logger):
        logs.begin(request_id="r1", tenant="alice-1")
        logger.info(
            "job %s ended", "j1", extra={"fields": {"job": "j1", "url": f"http://x/?token={EMBEDDED}", "deep": {"password": "hunter2", "a": [TOKEN]}}}
        )
        logger.debug("not seen")
        try:
            raise ValueError(f"password=hunter2 {TOKEN}")
        except ValueError:
            logger.exception("it failed\nwith lines")
        logger.info("bad %d", "args")

    text = logged(log=log)
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 3
    assert "hunter2" not in text
    assert TOKEN not in text
    assert EMBEDDED not in text
    first, second, _ = lines
    assert {
        "level": "info",
        "part": "server",
        "message": "job j1 ended",
        "request_id": "r1",
        "tenant": "alice-1",
        "job": "j1",
    }.items() <= first.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert "ValueError" in second["trace"]


def test_a_line_for_people_cannot_be_faked():
    text = logged(
        Settings(log_format="text"), log=lambda logger: logger.info("a\n12:00:00 server  all is well\x1b[2J", extra={"fields": {"b": "c\nd"}})
    )
    assert text.count("\n") == 3
    assert all(line.startswith("    ") for line in text.splitlines()[1:])
    assert "\x1b" not in text


def test_lines_that_cannot_be_encoded_are_written_nonetheless():
    text = logged(log=lambda logger: logger.info("\ud800 %s", "x" * 100_000, extra={"fields": {"what": object(), "name": "\udfff"}}))
    assert len(text) < 40_000
    assert json.loads(text)["what"].startswith("<object")


def test_the_access_line(ask, door, caplog):
    caplog.set_level(logging.INFO, "mlaas.access")
    ask("POST", "/me?token=hidden", headers=bearer(door) | {"X-Request-ID": "r-7"})
    ask("GET", "/healthz")
    (line,) = [record for record in caplog.records if record.name == "mlaas.access"]
    assert line.getMessage() == "POST /me"
    fields = {"status": 200, "tenant": "tenant-1", "request_id": "r-7", "client": "10.1.2.3"}
    assert fields.items() <= line.fields.items()
