"""The small parts of the server: Docker's words, cursors, the feed of a job."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas.jobs.states import State
from mlaas.server import feeds, paging
from mlaas.server.durations import docker_status, human_duration
from mlaas.server.feeds import Feeds, View
from mlaas.store.records import JobRecord
from mlaas.web.problem import Problem

MINUTE, HOUR, DAY = 60, 3600, 86_400


def record(state: State = State.RUNNING, **columns: Any) -> JobRecord:
    values = dict.fromkeys(JobRecord.__slots__) | {"state": state, "id": "j", "reason": ""} | columns
    return JobRecord(**values)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (0.999, "Less than a second"),
        (1, "1 second"),
        (1.9, "1 second"),
        (8.2, "8 seconds"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119.9, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (59 * MINUTE + 59, "59 minutes"),
        (HOUR, "About an hour"),
        (1.49 * HOUR, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (47.4 * HOUR, "47 hours"),
        (47.5 * HOUR, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
        (3 * 365 * DAY, "3 years"),
    ],
)
def test_durations_are_those_of_docker(seconds, text):
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (record(State.QUEUED), "Created"),
        (record(State.STARTING), "Created"),
        (record(State.QUEUED, started=50.0), "Created"),
        (record(State.RUNNING, started=92.0), "Up 8 seconds"),
        (record(State.PUBLISHING, started=0.5), "Up About a minute"),
        (record(State.SUCCEEDED, started=1.0, finished=70.0, exit_code=0), "Exited (0) 30 seconds ago"),
        (record(State.FAILED, started=1.0, finished=99.5, exit_code=2), "Exited (2) Less than a second ago"),
        (record(State.FAILED, finished=99.0), "Exited (1) 1 second ago"),
        (record(State.CANCELLED, finished=90.0), "Exited (143) 10 seconds ago"),
        (record(State.TIMED_OUT, started=1.0, finished=90.0), "Exited (137) 10 seconds ago"),
        (record(State.RUNNING, started=200.0), "Up Less than a second"),  # the clocks of two machines differ
    ],
)
def test_states_in_dockers_words(job, text):
    assert docker_status(job, 100.0) == text


@given(st.integers(0, paging.MAX_NUMBER))
def test_cursors_of_numbers_come_back(value):
    assert paging.number(paging.written(value)) == value


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=100))
def test_cursors_of_names_come_back(value):
    assert paging.name(paging.written(value)) == value


@given(st.text(max_size=60) | st.builds(paging.written, st.none() | st.floats() | st.integers() | st.booleans() | st.lists(st.integers())))
def test_any_other_cursor_is_told(text):
    for read, kind in ((paging.number, int), (paging.name, str)):
        if (problem := refused(read, text)) is None:
            assert isinstance(read(text), kind)
        else:
            assert (problem.status, problem.field) == (422, "cursor")


def refused(read: Any, text: str) -> Problem | None:
    try:
        read(text)
    except Problem as problem:
        return problem
    return None


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5), unique=True), st.integers(1, 7))
def test_pages_of_names_hold_each_item_once_in_order(names, limit):
    names, seen, cursor = sorted(names), [], ""
    while True:
        page = paging.page(paging.after(names, cursor, limit, str), limit, str, str)
        assert len(page.items) <= limit
        seen += page.items
        if page.next is None:
            break
        cursor = page.next
    assert seen == names


class World:
    """A job that changes when a test says so, and how often it was looked at."""

    def __init__(self) -> None:
        self.state, self.text, self.epochs, self.looks = State.RUNNING, b"", [], 0

    def look(self, _job: str) -> View:
        self.looks += 1
        return View(record(self.state), len(self.text), tuple(self.epochs))

    def read(self, _job: str, offset: int) -> bytes:
        return self.text[offset : offset + feeds.PIECE]

    def stream(self, watched: Feeds, offset: int = 0) -> Any:
        return feeds.events(watched, "j", self.read, lambda job: json.dumps({"state": job.state}), offset=offset)


async def _all(stream: Any) -> list[tuple[str, str, str]]:
    return [(event.event, event.data, event.id) async for event in stream]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_job_is_followed_to_its_end():
    async def run() -> list[tuple[str, str, str]]:
        world = World()
        world.text = b"first\npart of"
        task = asyncio.create_task(_all(world.stream(Feeds(world.look, 0.001))))
        await _until(lambda: world.looks > 3)
        world.text += b" a line\n"
        world.epochs.append({"epoch": 1})
        await _until(lambda: world.looks > 8)
        world.text += b"caf\xc3\xa9 \xff no end"
        world.state = State.SUCCEEDED
        return await task

    found = asyncio.run(run())
    assert [kind for kind, _, _ in found] == ["state", "log", "metric", "log", "state", "log", "end"]
    assert "".join(data for kind, data, _ in found if kind == "log") == "first\npart of a line\ncafé \ufffd no end"
    assert found[1][2] == "6"  # the offset of the next byte, where one may go on
    assert json.loads(found[-1][1]) == {"state": "succeeded"}


@given(st.binary(max_size=400), st.data())
def test_a_log_is_whole_however_often_its_stream_is_cut(text, data):
    world = World()
    world.text, world.state = text, State.FAILED
    cut = data.draw(st.integers(0, len(text)))
    before = text[:cut]
    resumed = asyncio.run(_all(world.stream(Feeds(world.look, 0.001), cut)))
    told = "".join(part for kind, part, _ in resumed if kind == "log")
    assert told == text[len(before) :].decode(errors="replace")
    assert resumed[-1] == ("end", '{"state": "failed"}', str(len(text)))


def test_long_lines_and_long_logs_come_in_pieces():
    world = World()
    world.text, world.state = b"x" * (feeds.PIECE + 5) + b"\n" + b"line\n" * 30_000 + "€".encode() * feeds.PIECE, State.FAILED
    found = asyncio.run(_all(world.stream(Feeds(world.look, 0.001))))
    pieces = [data for kind, data, _ in found if kind == "log"]
    assert "".join(pieces) == world.text.decode()
    assert len(pieces) > 4
    assert max(map(len, pieces)) <= feeds.PIECE


def test_many_who_watch_cost_one_look():
    async def run() -> tuple[int, int]:
        world = World()
        watched = Feeds(world.look, 0.01)
        tasks = [asyncio.create_task(_all(world.stream(watched))) for _ in range(200)]
        await _until(lambda: world.looks >= 200)  # each looks once when it comes
        before = world.looks
        await asyncio.sleep(0.3)
        during = world.looks - before
        world.state = State.CANCELLED
        ended = await asyncio.gather(*tasks)
        return during, sum(events[-1][0] == "end" for events in ended)

    during, ended = asyncio.run(run())
    assert during < 60  # 200 would look 6,000 times
    assert ended == 200


def test_a_job_that_takes_long_to_look_at_is_looked_at_seldom(monkeypatch):
    pauses, clock = [], [0.0]

    async def pause(seconds: float) -> bool:
        pauses.append(seconds)
        await asyncio.sleep(0)
        return True

    def look(job: str) -> View:
        clock[0] += 2.0 if world.looks < 3 else 0.0
        if world.looks == 4:
            world.state = State.CANCELLED
        return World.look(world, job)

    world = World()
    monkeypatch.setattr(feeds.stopping, "pause", pause)
    monkeypatch.setattr(feeds.time, "monotonic", lambda: clock[0])
    asyncio.run(_all(world.stream(Feeds(look, 0.5))))
    assert pauses == [0.5, 2.0 * feeds.SPARING, 2.0 * feeds.SPARING, 0.5]


def test_nobody_looks_when_nobody_watches():
    async def run() -> int:
        world = World()
        watched = Feeds(world.look, 0.001)
        task = asyncio.create_task(_all(world.stream(watched)))
        await _until(lambda: world.looks > 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.05)
        looks = world.looks
        await asyncio.sleep(0.05)
        return world.looks - looks

    assert asyncio.run(run()) == 0


def test_a_stream_ends_with_the_token(monkeypatch):
    world = World()
    monkeypatch.setattr(feeds.time, "time", lambda: 1000.0)
    stream = feeds.events(Feeds(world.look, 0.001), "j", world.read, lambda job: json.dumps({"state": job.state}), offset=0, until=1000.02)
    assert [kind for kind, _, _ in asyncio.run(_all(stream))] == ["state"]


def test_trouble_of_the_database_ends_no_stream():
    class Shaky(World):
        def look(self, job: str) -> View:
            view = super().look(job)
            if 2 < self.looks < 6:
                raise Problem(503, "the database is away")
            if self.looks > 8:
                self.state = State.SUCCEEDED
            return view

    world = Shaky()
    assert asyncio.run(_all(world.stream(Feeds(world.look, 0.001))))[-1][0] == "end"
