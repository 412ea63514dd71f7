"""The server under load: uploads larger than its memory, and a list of many jobs. Figures are printed (pytest -s), memory is bounded by a test."""

from __future__ import annotations

import statistics
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import httpx
import pytest

from mlaas.auth.authenticator import LOCAL
from mlaas.settings import Settings
from mlaas.store import database, jobs
from mlaas.store.records import NewJob
from tests.service.service import server_alone

MB = 10**6
SIZE = 300 * MB
JOBS = 10_000


@dataclass
class Running:
    """A server, its data folder and process, and a client of it."""

    data: Path
    pid: int
    http: httpx.Client


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("load") / "data"
    with server_alone(data) as (address, process):
        headers = {"Authorization": f"Bearer {(data / 'secrets' / 'token').read_text().strip()}"}
        with httpx.Client(base_url=address, headers=headers, timeout=300, trust_env=False) as http:
            yield Running(data, process.pid, http)


def tar(size: int) -> Iterator[bytes]:
    """An archive with one file of zeros, piece by piece."""
    entry = tarfile.TarInfo("folder/zeros")
    entry.size = size
    yield tarfile.TarInfo("folder/small").tobuf()
    yield entry.tobuf()
    yield from (bytes(MB) for _ in range(size // MB))
    yield bytes(-size % 512 + 1024)


def memory(pid: int, field: str) -> float:
    """A figure of a process's memory in MB: VmRSS now, or VmHWM, the most since it was reset."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / MB


@pytest.mark.parametrize("form", [False, True], ids=["body", "form"])
def test_a_large_upload_takes_little_memory(service, form):
    http = service.http
    http.put("/api/v1/workspaces/warm", content=b"".join(tar(MB))).raise_for_status()
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")
    before, began = memory(service.pid, "VmRSS"), time.monotonic()
    if form:
        bound = {"Content-Type": "multipart/form-data; boundary=b"}
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f.tar"\r\n\r\n'
        answer = http.post("/api/v1/workspaces?name=large", content=chain([head], tar(SIZE), [b"\r\n--b--\r\n"]), headers=bound)
    else:
        answer = http.put("/api/v1/workspaces/large", content=tar(SIZE))
    assert answer.status_code == 201, answer.text
    assert answer.json()["size"] == SIZE
    more = memory(service.pid, "VmHWM") - before
    print(f"\n{SIZE / MB:.0f} MB in {time.monotonic() - began:.1f} s; {more:.0f} MB more than the {before:.0f} MB of the idle server")
    assert more < 100
    assert list((service.data / "uploads").iterdir()) == []
    http.delete("/api/v1/workspaces/large").raise_for_status()


def test_an_upload_that_is_cut_off_leaves_nothing(service):
    def broken() -> Iterator[bytes]:
        for number, piece in enumerate(tar(20 * MB)):
            if number == 12:
                raise ConnectionAbortedError
            yield piece

    for method, path in (("PUT", "/api/v1/workspaces/cut"), ("POST", "/upload?name=cut")):
        with pytest.raises(ConnectionAbortedError):
            service.http.request(method, path, content=broken())
    until = time.monotonic() + 30
    while list((service.data / "uploads").iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert list((service.data / "uploads").iterdir()) == []
    assert service.http.get("/api/v1/workspaces/cut").status_code == 404


def test_ten_thousand_jobs_are_listed_page_by_page(service):
    http = service.http
    http.get("/api/v1/me").raise_for_status()
    engine = database.connect(Settings(data=service.data))
    new = NewJob(LOCAL.tenant, "tth", "train", {"workspace": "tth", "files": "files.txt"}, 1.0, 10**9, 60.0)
    first, _ = jobs.create(engine, new, now=time.time())
    _copies(engine, first.id, JOBS - 1)
    engine.dispose()
    for query in ("", "?limit=200", "?state=succeeded", "?model=tth_5", "?model=none"):
        times = []
        for _ in range(25):
            began = time.perf_counter()
            answer = http.get(f"/api/v1/jobs{query}")
            times.append(time.perf_counter() - began)
            assert answer.status_code == 200
        print(f"\nGET jobs{query} of {JOBS:,}: median {1000 * statistics.median(times):.1f} ms, {len(answer.json()['items'])} items")
    numbers, cursor = [], ""
    while cursor is not None:
        page = http.get("/api/v1/jobs", params={"limit": 200, "cursor": cursor}).json()
        numbers += [item["number"] for item in page["items"]]
        cursor = page["next"]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == JOBS


def _copies(engine, job: str, number: int) -> None:
    """More rows like one job's; `create` would take a transaction each."""
    from mlaas.store.schema import jobs as table

    with database.writing(engine) as connection:
        row = dict(connection.execute(table.select().where(table.c.id == job)).mappings().one())
        del row["number"]
        states = ("succeeded", "failed", "cancelled", "queued")
        copies = [row | {"id": f"copy{n}", "process_name": f"tth_{n + 2}", "state": states[n % 4]} for n in range(number)]
        connection.execute(table.insert(), copies)
