"""The web pages in a real browser, against the real service: a training from upload to prediction, and what may not happen."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import httpx
import pytest
from markupsafe import escape
from playwright.sync_api import Error, expect, sync_playwright

from tests.service.service import packed, running
from tests.support.programs import find_program

pytestmark = pytest.mark.needs("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"]
MODEL = """
from sklearn.linear_model import LogisticRegression

def model(idim):
    print('<script>document.title = "owned"</script> \\x1b[31mred\\x1b[0m', flush=True)
    return LogisticRegression(max_iter=50)
"""
SLOW = """
import time

def model(idim):
    for number in range(600):
        print("line", number, flush=True)
        time.sleep(0.1)
"""
PARAMS = {"branch": "events", "identifier": ["runNo", "evtNo", "lumi"], "selected_branches": ["ht", "njet", "met", "jet_pt"], "chunk_size": -1}
EVENTS = {"ht": [900.0, 300.0], "njet": [8, 4], "met": [100.0, 20.0], "jet_pt": [[200.0, 100.0], [40.0]]}


@pytest.fixture(scope="module")
def folder(tth, tmp_path_factory):
    """A workspace with a model that trains in a second."""
    found = tmp_path_factory.mktemp("pages") / "tth"
    found.mkdir()
    for name in ("signal.root", "background.root"):
        shutil.copy(tth / name, found)
    (found / "files.txt").write_text("signal.root\nbackground.root\n")
    (found / "labels.txt").write_text("1\n0\n")
    (found / "model.py").write_text(MODEL)
    (found / "slow.py").write_text(SLOW)
    (found / "params.json").write_text(json.dumps(PARAMS))
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("service") / "data", user_jobs=4) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=find_program("chromium"), args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def visit(browser, service, tmp_path):
    """Opens pages as one who is signed in; any message of the browser's console fails the test. Screenshots go to tmp_path."""
    contexts = []

    def open_page(*, signed_in=True, messages=None, **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, "base_url": service.server, **options})
        contexts.append(context)
        page = context.new_page()
        heard = messages if messages is not None else said
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.set_default_timeout(20_000)
        if signed_in:
            page.goto(f"/?token={service.token}")
        return page

    said: list[str] = []
    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in said if not text.startswith("[DOM]")] == []


@pytest.fixture(scope="module")
def trained(service, folder):
    """The process name of a training that succeeded; its model is `tth`, version 1."""
    with service.client() as http:
        http.post("/api/v1/workspaces", params={"name": "tth"}, files={"file": packed(folder)}).raise_for_status()
        document = {"workspace": "tth", "files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": PARAMS}
        name = http.post("/api/v1/jobs", json=document).raise_for_status().json()["process_name"]
    found = service.finished(name)
    assert found["state"] == "succeeded", found["reason"]
    return name


PAGES = ["/", "/?state=failed", "/submit-form?workspace=tth", "/predict-form", "/models", "/models/tth", "/models/tth/versions/1", "/try?model=tth"]
PAGES += ["/workspaces", "/workspaces/tth", "/usage", "/admin", "/jobs/tth_1", "/nothing-here"]


# ---- signing in
def test_the_printed_link_signs_in_and_leaves_no_token_in_the_address(visit, service):
    page = visit()
    assert page.url == f"{service.server}/"
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["name"]) == (True, "Lax", "mlaas_session")
    assert service.token not in cookie["value"]
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{service.server}/sign-in")
    assert page.context.cookies() == []
    page.goto("/usage")
    expect(page).to_have_url(f"{service.server}/sign-in?next=/usage")


def test_a_token_can_be_pasted_and_a_wrong_one_is_told(visit, service):
    page = visit(signed_in=False, messages=[])
    page.goto("/sign-in?next=/usage")
    expect(page.get_by_label("Token")).to_be_focused()
    page.get_by_label("Token").fill("mlaas_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("the token is not the one of this service")
    page.get_by_label("Token").fill(service.token)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{service.server}/usage")


@pytest.mark.parametrize("target", ["//evil.example.org", "/\\evil.example.org", "https://evil.example.org", "javascript:alert(1)", "/a\nb", "\t//x"])
def test_signing_in_leads_nowhere_else(service, target):
    form = {"token": service.token, "target": target}
    with httpx.Client(base_url=service.server, trust_env=False, headers={"Sec-Fetch-Site": "same-origin"}) as http:
        assert http.post("/sign-in", data=form).headers["location"] == "/"
        assert http.post("/sign-in", data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


# ---- from upload to prediction
def test_a_training_from_upload_to_prediction(visit, service, folder, tmp_path):
    said = []
    page = visit(messages=said)
    archive = tmp_path / "luca.tar.gz"
    archive.write_bytes(packed(folder))
    page.get_by_role("link", name="Workspaces").click()
    page.get_by_label("Archive", exact=True).set_input_files(archive)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("status")).to_have_text("The workspace luca is uploaded.")
    page.get_by_role("link", name="Submit a training").click()
    expect(page.get_by_label("Labels", exact=True)).to_have_value("labels.txt")
    page.get_by_role("textbox", name="Memory").fill("plenty")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("textbox", name="Memory")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("textbox", name="Memory")).to_be_focused()
    expect(page.locator("#memory-wrong")).to_contain_text('write e.g. "4GB"')
    expect(page.get_by_role("textbox", name="Memory")).to_have_value("plenty")
    page.get_by_role("textbox", name="Memory").fill("2gb")
    page.get_by_role("button", name="Submit").click()
    expect(page).to_have_url(f"{service.server}/jobs/luca_1")
    expect(page.locator("#state .state")).to_have_text("succeeded", timeout=120_000)
    expect(page.get_by_role("log")).to_contain_text('<script>document.title = "owned"</script> red')
    assert page.title().startswith("luca_1")
    expect(page.locator("#curves")).to_contain_text("Final figures")
    page.get_by_role("link", name="luca version 1").click()
    report = page.frame_locator("iframe.report")
    expect(report.get_by_role("heading", name="luca").first).to_be_visible()
    page.get_by_role("link", name="Try it").click()
    page.get_by_role("textbox", name="Events").fill(json.dumps(EVENTS))
    page.locator("section[aria-labelledby=by-json] button").click()
    expect(page.get_by_role("heading", name="Scores of luca version 1")).to_be_visible()
    assert page.locator("section[aria-labelledby=scores] tbody tr").count() == 2
    page.get_by_label("jet_pt jagged").fill("120 80.5, 40")
    page.locator("section[aria-labelledby=by-branch] button").click()
    expect(page.locator("section[aria-labelledby=scores] tbody tr")).to_have_count(1)
    assert len(said) == 1, said  # the browser tells of the form that was refused
    assert "422" in said[0]


def test_a_log_comes_by_itself_and_cancel_ends_the_job(visit, service, trained):
    page = visit()
    page.goto("/submit-form?workspace=tth")
    page.get_by_label("Model", exact=True).fill("slow.py")
    page.get_by_role("button", name="Submit").click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("line 5\n", timeout=120_000)
    first = page.evaluate("window.seen = 1")
    expect(log).to_contain_text("line 25\n")
    assert page.evaluate("window.seen") == first, "the page was not loaded again"
    text = log.inner_text()
    assert [int(number) for number in re.findall(r"line (\d+)", text)] == list(range(text.count("line ")))
    assert log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight") < 60
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state .state")).to_have_text("cancelled", timeout=60_000)
    expect(page.get_by_role("button", name="Delete")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_contain_text("is deleted")


def test_the_list_of_jobs_is_alive_and_keeps_the_focus(visit, service, trained):
    page = visit()
    link = page.get_by_role("link", name=trained, exact=True)
    link.focus()
    with service.client() as http:
        document = {"workspace": "tth", "files": "files.txt", "labels": "labels.txt", "model": "slow.py", "params": PARAMS}
        name = http.post("/api/v1/jobs", json=document).json()["process_name"]
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
        expect(link).to_be_focused()
        http.post(f"/api/v1/jobs/{name}/cancel")
    page.get_by_role("link", name="Succeeded").click()
    expect(page.get_by_role("link", name=name, exact=True)).to_have_count(0)


def test_aliases_and_shares(visit, trained):
    page = visit(messages=[])
    page.goto("/models/tth")
    page.get_by_label("Alias", exact=True).fill("production")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_role("status")).to_have_text("production is version 1 now.")
    page.get_by_label("Alias", exact=True).fill("1")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_role("alert")).to_be_focused()
    page.get_by_label("Group").fill("/cms/higgs")
    page.get_by_role("button", name="Share").click()
    expect(page.get_by_role("button", name="Take the model back from /cms/higgs")).to_be_visible()
    page.get_by_role("button", name="Take the model back from /cms/higgs").click()
    page.get_by_role("button", name="Remove the alias production").click()
    expect(page.get_by_text("production → 1")).to_have_count(0)


def test_everything_works_without_scripts(visit, service, trained):
    page = visit(java_script_enabled=False)
    page.goto("/submit-form")
    page.get_by_label("Workspace", exact=True).select_option("tth")
    page.get_by_role("button", name="Choose").click()
    page.get_by_label("Model", exact=True).fill("slow.py")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="training")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    service.finished(page.url.rpartition("/")[2])
    page.reload()
    expect(page.locator("#state .state")).to_have_text("cancelled")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_contain_text("is deleted")
    page.goto(f"/jobs/{trained}")
    expect(page.get_by_role("log")).to_contain_text("ONNX")
    page.goto("/try?model=tth@1")
    page.get_by_role("textbox", name="Events").fill(json.dumps(EVENTS))
    page.locator("section[aria-labelledby=by-json] button").click()
    expect(page.get_by_role("heading", name="Scores of tth version 1")).to_be_visible()


def test_predictions_of_whole_files(visit, service, trained):
    page = visit()
    page.goto("/predict-form?model=tth&workspace=tth")
    page.get_by_label("Files", exact=True).fill("signal.root")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#state .state")).to_have_text("succeeded", timeout=120_000)
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("signal.*root")).click()
    assert Path(download.value.path()).read_bytes()[:4] == b"root"


# ---- for everybody
CHECKS = {path.stem: path.read_text() for path in (Path(__file__).parents[1] / "support" / "pages").glob("*.js")}
CONTRAST, STRUCTURE = CHECKS["contrast"], CHECKS["structure"]


def name_of(path):
    return re.sub(r"\W+", "-", path).strip("-") or "jobs"


@pytest.mark.parametrize("look", ["wide", "narrow", "dark"])
def test_every_page_is_readable(visit, service, trained, tmp_path, look):
    looks = {"wide": {}, "narrow": {"viewport": {"width": 320, "height": 640}}, "dark": {"color_scheme": "dark"}}
    page = visit(messages=[], **looks[look])
    wrong = {}
    for path in PAGES:
        page.goto(path)
        found = page.evaluate(CONTRAST) + page.evaluate(STRUCTURE)
        page.screenshot(path=tmp_path / f"{look}-{name_of(path)}.png", full_page=True)
        width = page.evaluate("document.documentElement.scrollWidth")
        found += [f"{width} pixels wide"] if width > page.viewport_size["width"] else []
        if found:
            wrong[path] = found
    page.get_by_role("button", name="Sign out").click()
    found = page.evaluate(CONTRAST) + page.evaluate(STRUCTURE)
    assert wrong == {}
    assert found == []


def test_the_checks_see_what_is_wrong(visit):
    page = visit()
    page.evaluate("""() => { document.querySelector("main").insertAdjacentHTML("beforeend", "<p class=x>pale</p><input id=y><h4>deep</h4>");
      document.querySelector(".x").style.color = "#999"; }""")
    assert any("pale" in text for text in page.evaluate(CONTRAST))
    found = "\n".join(page.evaluate(STRUCTURE))
    assert "no name: <input" in found
    assert "skipped a level: deep" in found
    assert "inline style" in found


def test_the_keyboard_reaches_everything_and_shows_where_it_is(visit, trained):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto("/models/tth")
    reached, invisible = set(), []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e);
          return [e.tagName + "|" + (e.id || e.textContent.trim()), s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2]; }""")
        reached.add(at[0])
        invisible += [at[0]] if not at[1] and not at[0].startswith("BODY") else []
    assert {"A|Try it", "INPUT|alias", "SELECT|version", "BUTTON|Share", "BUTTON|Delete the model with all its versions"} <= reached
    assert invisible == []


# ---- against hostile content and hostile pages
def test_pages_run_nothing_foreign(service, trained):
    with service.client() as http:
        for path in PAGES:
            policy = http.get(path, headers={"Accept": "text/html"}).headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "style-src 'self';" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy


def test_a_hostile_report_cannot_act_as_the_user(visit, service, trained):
    reports = list((service.data / "models" / "local" / "tth" / "1" / "report").glob("index.html"))
    original = reports[0].read_text()
    hostile = f"""<h1 id=h>quiet</h1><script>document.getElementById("h").textContent = "ran";
      fetch("{service.server}/api/v1/me").then(() => {{ top.document.title = "owned"; }});</script>
      <form action="/models/tth/delete" method=post id=f></form><script>document.getElementById("f").submit()</script>
      <img src="{service.server}/usage"><a id=a href="/usage" target=_top>go</a>"""
    reports[0].write_text(hostile)
    try:
        heard = []
        page = visit(messages=heard)
        page.goto("/models/tth/versions/1")
        frame = page.frame_locator("iframe.report")
        expect(frame.get_by_role("heading")).to_have_text("quiet")
        assert any("sandboxed" in text for text in heard)
        frame.locator("#a").click(timeout=5000)
        with pytest.raises(Error):
            page.wait_for_url("**/usage", timeout=1500)
        page.goto("/api/v1/models/tth/versions/1/report/index.html")
        expect(page.get_by_role("heading")).to_have_text("quiet")
        assert page.title() != "owned"
    finally:
        reports[0].write_text(original)


def test_looking_changes_nothing(service, trained):
    with service.client() as http:
        before = http.get("/api/v1/models/tth").json(), http.get("/api/v1/workspaces").json()
        for path in ("/models/tth/delete", "/models/tth/aliases", "/jobs/tth_1/cancel", "/jobs/tth_1/delete", "/workspaces/tth/delete", "/sign-out"):
            assert http.get(path).status_code == 405
        assert (http.get("/api/v1/models/tth").json(), http.get("/api/v1/workspaces").json()) == before


FORMS = ["/submit-form", "/predict-form", "/try", "/workspaces/upload", "/workspaces/tth/delete", "/models/tth/delete", "/models/tth/aliases"]
FORMS += ["/models/tth/shares", "/models/tth/versions/1/delete", "/jobs/tth_1/delete", "/jobs/tth_1/cancel", "/sign-out"]


@pytest.mark.parametrize("path", FORMS)
def test_a_page_of_somebody_else_cannot_send_a_form(service, trained, path):
    with httpx.Client(base_url=service.server, trust_env=False) as http:
        http.get("/", params={"token": service.token})
        csrf = re.search(r'name="csrf" value="([^"]+)"', http.get("/").text)[1]
        for headers, data in (
            ({"Sec-Fetch-Site": "cross-site"}, {"csrf": csrf}),
            ({"Sec-Fetch-Site": "same-origin"}, {"csrf": "forged"}),
            ({}, {"csrf": csrf}),
        ):
            answer = http.post(path, data=data, headers=headers)
            assert answer.status_code == 403, (headers, answer.text)
            assert answer.headers["content-type"].startswith("text/html")
    with service.client() as http:
        assert http.get("/api/v1/models/tth").status_code == 200
        assert http.get("/api/v1/workspaces/tth").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs/nothing_1", 404),
        ("/jobs/%3Cscript%3E", 404),
        ("/models/x%2Fy", 404),
        ("/models/tth/versions/99", 404),
        ("/workspaces/nothing", 404),
        ("/?state=strange", 422),
        ("/?cursor=strange", 422),
        ("/try?model=%22%3E%3Cscript%3E", 404),
        ("/nothing", 404),
    ],
)
def test_what_is_not_there_is_a_page(service, path, status):
    with service.client() as http:
        answer = http.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == status
    assert "<script>" not in answer.text
    assert "Traceback" not in answer.text
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ("{", "this is not JSON"),
        ("[" * 5000, "nested too deep"),
        ('{"ht": [1]}', "the events have no branch"),
        ('"text"', "events"),
        ('{"ht": ["<script>alert(1)</script>"], "njet": [1], "met": [1], "jet_pt": [[1]]}', "ht"),
    ],
)
def test_events_that_are_wrong_are_told_and_kept(service, trained, events, sentence):
    with httpx.Client(base_url=service.server, trust_env=False, headers={"Sec-Fetch-Site": "same-origin"}) as http:
        http.get("/", params={"token": service.token})
        csrf = re.search(r'name="csrf" value="([^"]+)"', http.get("/").text)[1]
        answer = http.post("/try", data={"csrf": csrf, "model": "tth", "by": "json", "events": events})
    assert 400 <= answer.status_code < 500
    found = re.search(r'<div class="error" role="alert"[^>]*>(.*?)</div>', answer.text, re.DOTALL)
    assert sentence in found[1]
    assert "<script>alert" not in answer.text
    assert str(escape(events))[:40] in answer.text


def test_uploads_that_are_wrong_are_told_and_leave_nothing(visit, service, tmp_path):
    page = visit(messages=[])
    page.goto("/workspaces")
    wrong = tmp_path / "wrong.tar.gz"
    wrong.write_bytes(b"no archive at all")
    page.get_by_label("Archive", exact=True).set_input_files(wrong)
    page.get_by_label("Name").fill("kept_name")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("kept_name")
    with service.client() as http:
        assert http.get("/api/v1/workspaces/kept_name").status_code == 404
    until = time.monotonic() + 20
    while any((service.data / "uploads").iterdir()):
        assert time.monotonic() < until
        time.sleep(0.1)
