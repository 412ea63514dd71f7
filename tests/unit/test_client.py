"""The client: addresses, retries, redirects, errors, streams, archives, downloads, documents."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
import typing
from datetime import datetime
from itertools import pairwise

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas.client import Client, NotSignedIn, ServiceError, columns, documents, transport, uploaded
from mlaas.client.address import server_address
from mlaas.client.packing import entries, pack
from mlaas.client.streams import messages
from mlaas.client.tokens import Fixed
from mlaas.client.transport import Connection
from mlaas.errors import UserError
from tests.support.answers import Answer, answering, document, problem

JOB = {
    "id": "a1",
    "number": 7,
    "process_name": "ttH_1",
    "kind": "train",
    "state": "running",
    "reason": "",
    "model": "ttH",
    "version": None,
    "workspace": "ttH",
    "device": "cpu",
    "cpus": 1,
    "gpus": 0,
    "memory": 4_000_000_000,
    "time_limit": 86400,
    "attempt": 1,
    "exit_code": None,
    "created": "2026-01-01T00:00:00Z",
    "started": None,
    "finished": None,
    "cpu_seconds": 0,
    "peak_memory": 0,
    "request": {},
}

WORKSPACE = {"name": "w", "generation": 1, "files": 1, "size": 1, "created": "2026-01-01T00:00:00Z"}


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """No login, token or service of whoever runs the tests; and no long waits."""
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "OIDC_SOCK", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path.parent / f"{tmp_path.name}-{name}"))
    monkeypatch.setenv("MLAAS_DATA", str(tmp_path.parent / f"{tmp_path.name}-data"))
    monkeypatch.setattr(transport, "_pause", lambda attempt, wanted: 0.001)


def client(url: str) -> Client:
    return Client(url, token="secret")  # noqa: S106


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "means"),
        [
            ("https://mlaas.example.org/", "https://mlaas.example.org"),
            ("https://example.org:8443/mlaas/", "https://example.org:8443/mlaas"),
            ("mlaas.example.org", "https://mlaas.example.org"),
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ],
    )
    def test_what_is_meant(self, text, means):
        assert str(server_address(text)) == means

    @pytest.mark.parametrize("text", ["", "http://", "ftp://a", "https://me:pw@a.org", "https://a.org/?x=1", "https://a.org:99999", "a b"])
    def test_what_is_none(self, text):
        with pytest.raises(UserError, match="server"):
            server_address(text)

    @pytest.mark.parametrize("text", ["http://example.org", "http://127.0.0.1.example.org", "http://localhost.example.org", "http://10.0.0.1"])
    def test_a_token_is_not_sent_unencrypted(self, text):
        with pytest.raises(UserError, match="--insecure"):
            server_address(text)
        assert str(server_address(text, insecure=True)) == text


class TestRequests:
    def test_the_token_goes_along_and_the_answer_is_a_dataclass(self):
        with answering(lambda asked: document(JOB | {"something": "new"})) as server, client(server.url) as one:
            job = one.jobs.get("ttH_1")
        assert (job.process_name, job.created.tzinfo is not None, job.ended) == ("ttH_1", True, False)
        assert server.asked[0].path == "/api/v1/jobs/ttH_1"
        assert server.asked[0].headers["authorization"] == "Bearer secret"

    def test_names_are_escaped(self):
        with answering(lambda asked: problem(404, "no such job")) as server, client(server.url) as one, pytest.raises(ServiceError):
            one.jobs.get("../../me?x=1#y")
        assert server.asked[0].path == "/api/v1/jobs/..%2F..%2Fme%3Fx%3D1%23y"

    def test_the_sentence_of_the_server(self):
        answer = Answer(422, b'{"detail": "params.epochs: at least 1", "field": "params.epochs"}', {"Content-Type": "application/problem+json"})
        with answering(lambda asked: answer) as server, client(server.url) as one, pytest.raises(ServiceError) as caught:
            one.jobs.submit({})
        assert str(caught.value) == "params.epochs: at least 1"
        assert (caught.value.status, caught.value.field) == (422, "params.epochs")

    @pytest.mark.parametrize("body", [b"", b"{", b'["x"]', b'{"detail": 3}', b"\xff" * 100_000])
    def test_an_error_in_no_form(self, body):
        answer = Answer(500, body, {"Content-Type": "application/json", "X-Request-ID": "r1"})
        with answering(lambda asked: answer) as server, client(server.url) as one, pytest.raises(ServiceError) as caught:
            one.jobs.get("a")
        assert caught.value.status == 500
        assert "r1" in str(caught.value)

    def test_a_page_is_not_the_api(self):
        page = Answer(200, b"<html>sign in</html>", {"Content-Type": "text/html"})
        with answering(lambda asked: page) as server, client(server.url) as one, pytest.raises(ServiceError, match="a page, not with the API"):
            one.me()

    def test_another_version_of_the_server(self):
        with answering(lambda asked: document({"id": 1})) as server, client(server.url) as one, pytest.raises(ServiceError, match="not understood"):
            one.jobs.get("a")

    def test_nobody_listens(self):
        with answering(lambda asked: document({})) as server:
            pass
        with client(server.url) as one, pytest.raises(ServiceError, match="start the service with: mlaas serve") as caught:
            one.me()
        assert caught.value.status == 0

    def test_a_refused_token_is_renewed_once(self):
        class Source:
            name = "test"

            def __init__(self) -> None:
                self.renewed = 0

            def token(self, *, renew=False):
                self.renewed += renew
                return "new" if self.renewed else "old"

        def answer(asked):
            return document(JOB) if asked.headers["authorization"] == "Bearer new" else problem(401, "the token has ended")

        with answering(answer) as server, Client(server.url, token=Source()) as one:
            assert one.jobs.get("a").number == 7
        with answering(lambda asked: problem(401, "the token is for another audience")) as server, Client(server.url, token=Source()) as one:
            with pytest.raises(NotSignedIn, match="another audience; sign in with: mlaas login"):
                one.jobs.get("a")
            assert len(server.asked) == 2

    def test_pages(self):
        def answer(asked):
            cursor = httpx.URL(asked.path).params.get("cursor", "0")
            return document({"items": [JOB | {"number": int(cursor)}], "next": str(int(cursor) + 1) if cursor != "4" else None})

        with answering(answer) as server, client(server.url) as one:
            assert [job.number for job in one.jobs.list(states=["failed", "running"])] == [0, 1, 2, 3, 4]
            assert "state=failed&state=running" in server.asked[2].path
            assert [job.number for job in one.jobs.list(limit=2)] == [0, 1]
            assert len(server.asked) == 7


class TestRetries:
    def test_a_busy_server(self):
        answers = [problem(503, "busy", **{"Retry-After": "0"}), problem(502, "gateway"), document(JOB)]
        with answering(lambda asked: answers.pop(0)) as server, client(server.url) as one:
            assert one.jobs.get("a").number == 7
            assert len(server.asked) == 3

    def test_not_for_ever(self):
        with answering(lambda asked: problem(503, "busy for long")) as server, client(server.url) as one:
            with pytest.raises(ServiceError, match="busy for long"):
                one.jobs.get("a")
            assert len(server.asked) == transport.ATTEMPTS

    def test_a_submission_is_repeated_with_the_same_key(self):
        cut = Answer(201, b"{}", {"Content-Type": "application/json"}, cut=1)
        answers = [problem(503, "busy"), cut, document(JOB, 201)]
        with answering(lambda asked: answers.pop(0)) as server, client(server.url) as one:
            one.jobs.submit({"a": 1})
            assert len(server.asked) == 3
            assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
            assert {asked.body for asked in server.asked} == {b'{"a":1}'}

    def test_what_may_not_be_repeated_is_not(self):
        with answering(lambda asked: problem(503, "busy")) as server:
            connection = Connection(server_address(server.url), Fixed("t"))
            with pytest.raises(ServiceError):
                connection.json("POST", "x")
            connection.close()
            assert len(server.asked) == 1

    def test_a_deletion_whose_answer_was_lost(self):
        answers = [problem(502, "gateway"), problem(404, "no such job")]
        with answering(lambda asked: answers.pop(0)) as server, client(server.url) as one:
            one.jobs.delete("a")

    def test_seconds_that_a_server_asks_for(self, monkeypatch):
        monkeypatch.undo()
        assert transport._pause(1, "7") == 7
        assert transport._pause(1, "99999") == transport.LONGEST_WAIT
        assert 0 < transport._pause(3, "Wed, 21 Oct 2026 07:28:00 GMT") <= 2


class TestRedirects:
    def test_the_token_stays_with_the_server(self):
        with answering(lambda asked: document(JOB)) as other:
            away = Answer(307, b"", {"Location": f"{other.url}/elsewhere"})
            with answering(lambda asked: away) as server, client(server.url) as one:
                assert one.jobs.get("a").number == 7
                assert "authorization" in server.asked[0].headers
            assert "authorization" not in other.asked[0].headers

    def test_a_submission_goes_nowhere_else(self):
        with answering(lambda asked: document(JOB)) as other:
            away = Answer(307, b"", {"Location": f"{other.url}/elsewhere"})
            with answering(lambda asked: away) as server, client(server.url) as one, pytest.raises(ServiceError, match="--server"):
                one.jobs.submit({"secret": 1})
            assert not other.asked

    def test_within_the_server(self):
        def answer(asked):
            return document(JOB) if asked.path == "/there" else Answer(308, b"", {"Location": "/there"})

        with answering(answer) as server, client(server.url) as one:
            one.jobs.submit({"a": 1})
            assert server.asked[1].headers["authorization"] == "Bearer secret"
            assert server.asked[1].body == server.asked[0].body

    @pytest.mark.parametrize(("target", "says"), [("/x", "circle"), ("http://example.org/", "unencrypted"), ("file:///etc/passwd", "sends this")])
    def test_where_it_does_not_go(self, target, says):
        with (
            answering(lambda asked: Answer(302, b"", {"Location": target})) as server,
            client(server.url) as one,
            pytest.raises(UserError, match=says),
        ):
            one.jobs.get("a")

    def test_a_server_that_wants_https(self):
        away, says = Answer(301, b"", {"Location": "https://127.0.0.1/api"}), r"give its address as https://127\.0\.0\.1"
        with answering(lambda asked: away) as server, client(server.url) as one, pytest.raises(ServiceError, match=says):
            one.jobs.get("a")


class TestStreams:
    TEXT = (
        "event: log\r\ndata: a\u2028b\rdata:\ndata:  c\nid: 12\n\n: ping\n\n"
        "event: metric\ndata: {}\nretry: 1500\n\nid: 13\n\nevent: end\ndata: cut off"
    )

    @given(st.lists(st.integers(0, 130), max_size=8))
    def test_however_it_is_cut(self, cuts):
        raw = self.TEXT.encode()
        places = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
        found = list(messages(raw[start:end] for start, end in pairwise(places)))
        assert [(message.kind, message.data, message.id, message.retry) for message in found] == [
            ("log", "a\u2028b\n\n c", "12", None),
            ("metric", "{}", "12", 1.5),
        ]

    def test_following_goes_on_where_it_broke(self):
        def stream(*events, cut=None):
            text = "retry: 1\n\n" + "".join(
                f"event: {kind}\nid: {id}\n" + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n" for kind, id, data in events
            )
            return Answer(200, text.encode(), {"Content-Type": "text/event-stream"}, cut)

        first = [("state", 0, '{"state": "running"}'), ("log", 4, "one\n"), ("metric", 4, '{"epoch": 1}')]
        second = [
            ("state", 4, '{"state": "running"}'),
            ("metric", 4, '{"epoch": 1}'),
            ("metric", 4, '{"epoch": 2}'),
            ("log", 8, "two\n"),
            ("end", 8, "{}"),
        ]
        answers = [stream(*first), problem(503, "restarting"), stream(*second)]
        with answering(lambda asked: answers.pop(0)) as server, client(server.url) as one:
            events = list(one.jobs.follow("ttH_1"))
        assert "".join(event.text for event in events) == "one\ntwo\n"
        assert [event.data["epoch"] for event in events if event.kind == "metric"] == [1, 2]
        assert events[-1].kind == "end"
        assert server.asked[-1].headers["last-event-id"] == "4"
        assert "last-event-id" not in server.asked[0].headers

    def test_following_what_is_not_there(self):
        with (
            answering(lambda asked: problem(404, "there is no job ttH_9")) as server,
            client(server.url) as one,
            pytest.raises(ServiceError, match="no job"),
        ):
            list(one.jobs.follow("ttH_9"))


class TestArchives:
    @given(
        st.dictionaries(
            st.text("aé _-\u2028x", min_size=1, max_size=120).filter(lambda name: len(name.encode()) < 200 and name.strip()),
            st.binary(max_size=3000),
            min_size=1,
            max_size=6,
        )
    )
    def test_what_goes_in_comes_out(self, tmp_path_factory, content):
        folder = tmp_path_factory.mktemp("pack")
        for name, data in content.items():
            (folder / "deep").mkdir(exist_ok=True)
            (folder / "deep" / name).write_bytes(data)
        archive = b"".join(pack(entries(folder)))
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            assert {member.name: tar.extractfile(member).read() for member in tar} == {f"files/deep/{name}": data for name, data in content.items()}

    def test_what_is_left_out(self, tmp_path):
        for name in ("a.root", ".git/config", ".env", "x509up_u1000", "key.pem", "__pycache__/a.pyc", "sub/b.txt", "sub/.hidden", "logs/run.log"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        (tmp_path / "link.root").symlink_to(tmp_path / "a.root")
        (tmp_path / "up").symlink_to("/etc")
        (tmp_path / "gone.root").symlink_to("/nowhere")
        os.mkfifo(tmp_path / "pipe")
        assert [entry.path for entry in entries(tmp_path, ["logs/"])] == ["a.root", "link.root", "sub/b.txt"]

    def test_a_file_that_shrinks(self, tmp_path):
        (tmp_path / "a").write_bytes(b"x" * 1000)
        found = entries(tmp_path)
        (tmp_path / "a").write_bytes(b"x" * 10)
        with pytest.raises(UserError, match="became shorter"):
            list(pack(found))

    def test_an_upload_is_made_anew_for_each_attempt(self, tmp_path):
        (tmp_path / "a").write_bytes(b"x" * 100_000)
        answers = [problem(503, "busy"), document(WORKSPACE, 201)]
        with answering(lambda asked: answers.pop(0)) as server, client(server.url) as one:
            assert one.workspaces.upload("w", tmp_path).generation == 1
            assert server.asked[0].body == server.asked[1].body
        with tarfile.open(fileobj=io.BytesIO(server.asked[1].body)) as tar:
            assert tar.getnames() == ["files/a"]

    def test_what_is_there_already(self, tmp_path, monkeypatch):
        (tmp_path / "a").write_bytes(b"abc")
        files = entries(tmp_path)
        now = [document(WORKSPACE)]
        with answering(lambda asked: now[0]) as server, client(server.url) as one:
            assert not one.workspaces.same("w", files)
            one.workspaces.upload_files("w", files)
            assert one.workspaces.same("w", files)
            for other in (document(WORKSPACE | {"generation": 2}), document(WORKSPACE | {"created": "2026-01-02T00:00:00Z"}), problem(404, "none")):
                now[0] = other
                assert not one.workspaces.same("w", files)
            now[0] = document(WORKSPACE)
            os.utime(tmp_path / "a", (1, 1))
            assert not one.workspaces.same("w", entries(tmp_path))
            uploaded.path().write_text("{")
            assert not one.workspaces.same("w", files)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestDownloads:
    DATA = bytes(range(256)) * 4000

    def serve(self, asked, *, tag='"1"', cut=300_000):
        start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")) if asked.headers.get("if-range") == tag else 0
        return Answer(
            206 if start else 200,
            self.DATA[start:],
            {"ETag": tag, "Content-Type": "application/gzip"},
            cut=cut if len(self.DATA) - start > cut else None,
        )

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr("mlaas.client.download.time.sleep", lambda seconds: None)

    def test_it_goes_on_where_it_broke(self, tmp_path):
        with answering(self.serve) as server, client(server.url) as one:
            path = one.models.download("m", tmp_path / "m.tar.gz", version=1)
        assert path.read_bytes() == self.DATA
        assert [asked.headers.get("range") for asked in server.asked][:3] == [None, "bytes=300000-", "bytes=600000-"]
        assert names(tmp_path) == ["m.tar.gz"]

    def test_another_version_begins_anew(self, tmp_path):
        tags = iter(['"1"', '"2"', '"2"', '"2"', '"2"'])
        with answering(lambda asked: self.serve(asked, tag=next(tags))) as server, client(server.url) as one:
            assert one.models.download("m", tmp_path / "m.tar.gz", version=1).read_bytes() == self.DATA

    def test_without_a_tag_it_begins_anew(self, tmp_path):
        answers = [Answer(200, self.DATA, {}, cut=1000), Answer(200, self.DATA, {})]
        with answering(lambda asked: answers.pop(0)) as server, client(server.url) as one:
            assert one.models.download("m", tmp_path / "m.tar.gz", version=1).read_bytes() == self.DATA
            assert "range" not in server.asked[1].headers

    def test_an_error_leaves_nothing(self, tmp_path):
        with (
            answering(lambda asked: problem(404, "no such model")) as server,
            client(server.url) as one,
            pytest.raises(ServiceError, match="no such"),
        ):
            one.models.download("m", tmp_path / "m.tar.gz", version=1)
        assert not names(tmp_path)

    def test_the_next_call_goes_on(self, tmp_path):
        with answering(lambda asked: self.serve(asked, cut=1000)) as server, client(server.url) as one, pytest.raises(ServiceError, match="broke"):
            one.models.download("m", tmp_path / "m.tar.gz", version=1)
        with answering(lambda asked: self.serve(asked, cut=10**9)) as server, client(server.url) as one:
            assert one.models.download("m", tmp_path / "m.tar.gz", version=1).read_bytes() == self.DATA
        assert server.asked[0].headers["range"] == "bytes=6000-"
        assert names(tmp_path) == ["m.tar.gz"]


class TestEvents:
    def test_columns_of_arrays(self):
        import awkward as ak

        events = {"njet": np.array([1, 2]), "pt": ak.Array([[1.5], [2.5, 3.5]]), "jagged": {"offsets": np.array([0, 1, 3]), "values": np.ones(3)}}
        assert columns.plain(events) == {"njet": [1, 2], "pt": [[1.5], [2.5, 3.5]], "jagged": {"offsets": [0, 1, 3], "values": [1.0, 1.0, 1.0]}}
        assert columns.plain([{"njet": np.float32(1)}]) == [{"njet": 1.0}]

    @pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], "text", object()])
    def test_what_cannot_be_sent(self, value):
        with pytest.raises(UserError, match="events: pt"):
            columns.plain({"pt": value})


def test_the_documents_are_those_of_the_server():
    from mlaas.server import wire

    for name in ("Service", "Limits", "Usage", "Me", "Workspace", "File", "Job", "Metrics", "Version", "Model", "Prediction"):
        ours, theirs = getattr(documents, name), getattr(wire, name)
        fields = {field.name: field for field in dataclasses.fields(ours)}
        assert fields.keys() == theirs.model_fields.keys(), name
        hints = typing.get_type_hints(ours)
        for key, field in theirs.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, str | int | float | datetime):
                assert issubclass(field.annotation, hints[key]), f"{name}.{key}"
            optional = type(None) in typing.get_args(field.annotation)
            assert not optional or type(None) in typing.get_args(hints[key]), f"{name}.{key} may be null"


def test_the_states_are_those_of_the_server():
    from mlaas.commands_service import flags
    from mlaas.jobs.states import ENDED, State

    assert documents.STATES == flags.STATES == tuple(State)
    assert documents.ENDED == ENDED
