"""Browsers: signing in and out, cookies, sessions that end, and where nobody may be led."""

from __future__ import annotations

import re
import time
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from tests.gateway.browser import PAGE, browser, sessions, sign_in, submit
from tests.gateway.engine import COOKIE, DOORS, gateway
from tests.service.openid import provider
from tests.support.programs import find_program


def cookies(answer: httpx.Response) -> dict[str, dict[str, str]]:
    """The cookies that an answer sets, with their attributes in small letters."""
    found = {}
    for line in answer.headers.get_list("set-cookie"):
        for name, morsel in SimpleCookie(line).items():
            found[name] = {key: str(value) for key, value in morsel.items() if value} | {"value": morsel.value, "line": line.lower()}
    return found


def test_a_page_leads_to_the_provider(front, openid):
    with front.client(headers=PAGE) as client:
        answer = client.get("/jobs?state=queued")
    assert answer.status_code in {302, 303}
    address = urlsplit(answer.headers["location"])
    query = parse_qs(address.query)
    assert f"{address.scheme}://{address.netloc}" == openid.url
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == [f"{front.url()}/oauth2/callback"]
    assert {"openid", "offline_access"} <= set(query["scope"][0].split())
    assert len(query["state"][0]) > 20
    assert "nonce" in query


def test_signing_in_shows_the_page_that_was_asked_for(front):
    with browser(front) as client:
        answer = sign_in(client, "/usage?state=queued")
        assert answer.status_code == 200
        assert answer.url.path == "/usage"
        assert answer.url.query == b"state=queued"
        assert "alice" in answer.text
        assert client.get("/usage").status_code == 200
        assert client.get("/api/v1/me").json()["name"] == "alice"


def test_flags_of_the_cookies(front):
    with browser(front) as client:
        answer = sign_in(client)
        seen = [found for step in [*answer.history, answer] if step.url.port == client.base_url.port for found in cookies(step).items()]
    ours = [(name, morsel) for name, morsel in seen if name.startswith(COOKIE)]
    assert any(name == COOKIE for name, _ in ours)
    for name, morsel in ours:
        assert name.startswith("__Host-")
        assert "secure" in morsel["line"], name
        assert "httponly" in morsel["line"], name
        assert morsel["path"] == "/", name
        assert "domain=" not in morsel["line"], name
        if morsel["value"]:
            assert "samesite=lax" in morsel["line"] or "samesite=strict" in morsel["line"], morsel["line"]


def test_another_group_is_told_so_by_a_page(front):
    with browser(front) as client:
        answer = sign_in(client, user="bob")
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert "/mlaas/users" in answer.text


def test_one_session_for_both_doors(front):
    with browser(front) as client:
        sign_in(client)
        answer = client.get(f"{front.url('inference')}/netron")
        assert answer.url.port == front.ports["inference"]
        assert answer.status_code == 200, answer.text


def test_a_form_needs_the_pages_token(front):
    with browser(front) as client:
        page = sign_in(client, "/submit-form")
        csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert csrf
        origin = {"Origin": front.url()}
        assert client.post("/jobs/x_1/cancel", headers=origin).status_code == 403
        assert client.post("/jobs/x_1/cancel", data={"csrf": csrf[1]}, headers={"Origin": "https://evil.example.org"}).status_code == 403
        assert client.post("/jobs/x_1/cancel", data={"csrf": csrf[1]}, headers=origin).status_code == 404
        assert client.get("/delete_folder?name=x").status_code in {401, 403}  # published as GET: never by a cookie


def signed_out(client: httpx.Client, answer: httpx.Response) -> httpx.Response:
    """Confirm at the provider, where it asks."""
    if "/session/end" in str(answer.url) and "<form" in answer.text:
        answer = submit(client, answer, logout="yes")
    return answer


def test_signing_out_ends_the_session_here_and_at_the_provider(front):
    with browser(front) as client:
        page = sign_in(client)
        csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert csrf
        kept = {cookie.name: str(cookie.value) for cookie in client.cookies.jar if cookie.name.startswith(COOKIE)}
        leaving = client.post("/sign-out", data={"csrf": csrf[1]}, headers={"Origin": front.url()})
        answer = signed_out(client, client.get(leaving.headers["refresh"].removeprefix("0;url=")))
        assert answer.status_code == 200, answer.text
        assert sessions(client) == []
        again = client.get("/jobs")
        assert "/interaction/" in str(again.url), "the provider must ask for the password again"
        assert 'name="login"' in again.text
    if front.engine == "apache":  # oauth2-proxy keeps sessions in the cookie itself: a copy is good until the session's end
        with front.client(headers=PAGE | {"Cookie": "; ".join(f"{name}={value}" for name, value in kept.items())}) as thief:
            assert thief.get("/jobs").status_code in {302, 303}


def test_the_gateways_own_sign_out(front):
    with browser(front) as client:
        sign_in(client)
        client.follow_redirects = False
        answer = client.get("/oauth2/sign_out")
        assert answer.status_code in {302, 303}
        if front.engine == "apache":
            client.get(answer.headers["location"])
        assert sessions(client) == []


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example.org/",
        "//evil.example.org/",
        "/\\evil.example.org",
        "/%5Cevil.example.org",
        "https:evil.example.org",
        "javascript:alert(1)",
        "/%0d%0aSet-Cookie:x=1",
    ],
)
@pytest.mark.parametrize(
    "path", ["/oauth2/start?rd=", "/oauth2/sign_out?rd=", "/oauth2/sign_in?rd=", "/oauth2/callback?logout=", "/oauth2/callback?target_link_uri="]
)
def test_nobody_is_led_away(front, openid, path, target):
    for given in (target, quote(target, safe="")):
        with browser(front) as client:
            sign_in(client)
            client.follow_redirects = False
            answer = client.get(path + given)
            for _ in range(4):
                where = answer.headers.get("location")
                if not where:
                    break
                host = urlsplit(str(answer.url.join(where))).netloc
                assert host in {urlsplit(front.url()).netloc, urlsplit(openid.url).netloc}, where
                assert not re.match(r"[/\\\\]{2}", where)
                if host != urlsplit(front.url()).netloc:
                    assert "post_logout_redirect_uri=https%3A%2F%2Fevil" not in where
                    break
                answer = client.get(where)
            assert "set-cookie: x=1" not in str(answer.headers).lower()


@pytest.mark.parametrize("query", ["", "?code=x", "?code=x&state=y", "?error=access_denied&state=y", "?state=" + "x" * 5000, "?code=x&state=%00"])
def test_a_wrong_way_back_from_the_provider_makes_no_session(front, query):
    with front.client(headers=PAGE) as client:
        answer = client.get(f"/oauth2/callback{query}")
        assert answer.status_code != 302 or "/oauth2/callback" not in answer.headers["location"]
        assert sessions(client) == []
        assert client.get("/jobs").status_code in {302, 303}


def test_a_sign_in_that_somebody_else_began_is_refused(front):
    """A stranger who sends their own way back must not sign a victim in."""
    with browser(front) as stranger, front.client(headers=PAGE) as victim:
        page = stranger.get("/jobs")
        for _ in range(4):
            stranger.follow_redirects = False
            page = submit(stranger, page)
            while (where := page.headers.get("location")) and "/oauth2/callback" not in where:
                page = stranger.get(page.url.join(where))
            if where:
                break
        assert where
        answer = victim.get(where)
        assert answer.status_code >= 300
        assert sessions(victim) == []


@pytest.mark.parametrize("value", ["x", "", "A" * 4000, "eyJhbGciOiJkaXIifQ....", "%00"])
def test_a_made_up_session_is_none(front, value):
    with front.client(headers=PAGE | {"Cookie": f"{COOKIE}={value}; {COOKIE}_0={value}"}) as client:
        assert client.get("/jobs").status_code in {302, 303}
        assert client.get("/api/v1/me", headers={"Accept": "application/json"}).status_code == 401


def test_a_clients_page_without_a_token_is_no_redirect_for_programs(front):
    with front.client() as client:
        assert client.post("/submit", json={}).status_code == 401
        assert client.post("/upload", files={"file": b"x"}).status_code == 401
        assert client.get("/api/v1/jobs").json() is not None


@pytest.mark.parametrize("prompt", ["", "consent"])
def test_a_session_outlives_its_access_token_where_the_provider_renews_it(engine, tls, recorder, ports, prompt):
    """Tokens of the provider live for some seconds; with consent it gives refresh tokens, without it the session ends or is begun anew."""
    doors = ports[engine, "renewal"]
    port = doors["provider"]
    names = {
        "ISSUER": f"https://localhost:{port}",
        "TLS_PORT": str(port),
        "TLS_CERT": str(tls / "fullchain.pem"),
        "TLS_KEY": str(tls / "privkey.pem"),
    }
    values = {"gateway_prompt": prompt, "gateway_refresh_seconds": 2, "gateway_session_seconds": 15}
    values["gateway_login_parameters"] = {"audience": "mlaas & more"}
    upstreams = dict.fromkeys(DOORS, recorder.url)
    with (
        provider(**names, TTL="4", REDIRECT=f"https://localhost:{doors['server']}/oauth2/callback") as own,
        gateway(engine, doors, upstreams, own.url, tls, **values) as short,
        browser(short) as client,
    ):
        began = time.monotonic()
        asks: list[str] = []
        client.event_hooks["response"] = [lambda answer: asks.append(answer.headers.get("location", ""))]
        sign_in(client)
        assert any("audience=mlaas%20%26%20more" in place.replace("+", "%20") for place in asks), asks
        first = recorder.last().all("X-Forwarded-Access-Token")
        time.sleep(4.5)
        asked = own.requests("/token")
        client.follow_redirects = False
        answer = client.get("/jobs")
        if prompt:
            assert answer.status_code == 200, answer.headers
            assert recorder.last().all("X-Forwarded-Access-Token") != first
            assert own.requests("/token") == asked + 1
        if engine == "apache" or not prompt:  # oauth2-proxy counts from the last renewal
            time.sleep(began + 16 - time.monotonic())
            assert client.get("/jobs").status_code in {302, 303}


@pytest.mark.needs("chromium")
def test_a_real_browser_signs_in_and_out(front):
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=find_program("chromium"), args=flags)
        context = chromium.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.goto(f"{front.url()}/")
        page.fill("input[name=login]", "alice")
        page.fill("input[name=password]", "test")
        page.click("button[type=submit]")
        page.click("button[type=submit]")
        page.wait_for_url(f"{front.url()}/")
        assert "alice" in page.inner_text("header")
        (session,) = [cookie for cookie in context.cookies() if cookie["name"] in {COOKIE, f"{COOKIE}_0"}]
        assert session["secure"]
        assert session["httpOnly"]
        assert session["sameSite"] in {"Lax", "Strict"}
        assert page.evaluate("document.cookie") == ""
        page.goto(f"{front.url()}/workspaces")
        page.click("form[action='/sign-out'] button")
        page.click("button[name=logout]")
        page.wait_for_url(re.compile("signed_out|session/end"))
        assert not [
            cookie
            for cookie in context.cookies()
            if cookie["name"].startswith(COOKIE) and "state" not in cookie["name"] and "csrf" not in cookie["name"]
        ]
        page.goto(f"{front.url()}/")
        assert page.locator("input[name=login]").count() == 1
        chromium.close()
