"""What jobs read through the proxy, and what they do not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.collection import ROOT
from tests.support.origin import Origin, events
from tests.support.ports import free_port
from tests.xrootd.chain import Proxy, read, reader, run, shell

X, Y = sum(range(1000)), sum(range(1, 1001))
KINDS = {
    "forwarding": {},
    "origin": {"xrootd_mode": "origin", "xrootd_paths": ["/store"]},
    "forwarding with a cache": {"xrootd_cache": True, "xrootd_cache_size": "2GB"},
    "origin with a cache": {"xrootd_mode": "origin", "xrootd_cache": True, "xrootd_cache_size": "2GB"},
}


@pytest.fixture(scope="module", params=KINDS)
def proxy(request: pytest.FixtureRequest, rendered, origin: Origin) -> Iterator[Proxy]:
    """A proxy in each mode."""
    where = f"localhost:{origin.port}"
    named = {"xrootd_origin": where} if request.param.startswith("origin") else {"xrootd_permit": [where]}
    with Proxy(rendered(request.param.replace(" ", "-"), **KINDS[request.param], **named), free_port()) as found:
        yield found


@pytest.fixture
def names_only(proxy: Proxy) -> bool:
    """Whether files can be named without their server."""
    return "pss.origin =root,roots root://" in (proxy.rendered.config / "proxy.cfg").read_text()


def test_files_are_read_without_a_credential(place, proxy, origin, names_only):
    urls = [proxy.through(f"{origin.url}//store/{name}.root") for name in "xy"]
    assert read(place, *urls) == [X, Y]
    assert read(place, *urls) == [X, Y]
    if names_only:
        assert read(place, f"{proxy.url}//store/x.root") == [X]
    cached = list(proxy.rendered.cache.rglob("x.root"))
    assert bool(cached) == ("libXrdPfc" in (proxy.rendered.config / "proxy.cfg").read_text())
    assert run(proxy.rendered, "health", "--port", str(proxy.port)).returncode == 0


def test_the_origin_itself_refuses_them(place, origin):
    with pytest.raises(AssertionError, match=r"Auth failed|No protocols left"):
        read(place, f"{origin.url}//store/x.root")


def test_the_package_reads_by_the_address_of_the_file(place, proxy, origin):
    """As a job does: with the setting only, by wildcard, and with the file's own address in what it says."""
    script = (
        "from mlaas.data.sources import resolve; from mlaas.data.reader import open_events\n"
        f"paths = resolve(['{origin.url}//store/*.root']); print(*paths)\n"
        "for path in paths:\n    with open_events(path) as file: print(file.events)\n"
    )
    environment = reader(place) | {"MLAAS_XROOTD_PROXY": proxy.url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{origin.url}//store/x.root", f"{origin.url}//store/y.root", "1000", "1000"]


def test_other_origins_are_refused(place, proxy, origin, other):
    elsewhere = [
        f"{other.url}//store/x.root",
        f"root://127.0.0.1:{origin.port}//store/x.root",
        f"root://localhost:{origin.port}0//store/x.root",
        f"root://user@localhost:{origin.port}//store/x.root",
        f"root://localhost:{origin.port}.example.org//store/x.root",
        f"xroot://localhost:{origin.port}//store/x.root",
        f"http://localhost:{origin.port}//store/x.root",
        "file://localhost//etc/passwd",
        f"root://localhost:{origin.port}/../../etc/passwd",
    ]
    assert read(place, proxy.through(f"{origin.url}//store/x.root")) == [X]  # the right one may not stand in for the wrong ones
    for url in elsewhere:
        with pytest.raises(AssertionError, match=r"permission denied|disallowed"):
            read(place, proxy.through(url))
    assert "x.root" not in (other.folder / "log").read_text()


def test_nothing_of_this_machine_is_served(place, proxy):
    files = ["/etc/passwd", "//etc/passwd", "/store/../etc/passwd", str(proxy.rendered.credential / "x509up"), str(proxy.rendered.config / "authdb")]
    for path in files:
        with pytest.raises(AssertionError, match=r"permission denied|disallowed|no such file|No such file"):
            read(place, f"{proxy.url}/{path}")


@pytest.mark.parametrize("words", [["rm"], ["mv", "{}", "{}2"], ["mkdir", "{}3"], ["truncate", "{}", "1"], ["chmod", "{}", "rw-rw-rw-"]])
def test_nothing_is_written(place, proxy, origin, words):
    for path in (f"/root:/localhost:{origin.port}/store/x.root", "/store/x.root"):
        done = shell(place, proxy, *(word.format(path) for word in (words if len(words) > 1 else [*words, "{}"])))
        assert done.returncode != 0, words
        assert "permission denied" in done.stdout or "disallowed" in done.stdout
    assert sorted(path.name for path in origin.store.iterdir()) == ["x.root", "y.root"]


def test_nothing_is_uploaded(place, proxy, origin):
    for path in (f"root://localhost:{origin.port}//store/new", "/store/new"):
        command = ["xrdcp", "--silent", "--force", "/etc/hostname", f"{proxy.url}//{path}"]
        assert subprocess.run(command, env=reader(place), capture_output=True, timeout=60, check=False).returncode != 0
    assert not (origin.store / "new").exists()


def readable(place, url):
    try:
        return read(place, url) == [X]
    except AssertionError:
        return False


def test_an_origin_that_comes_back_is_read_again(place, rendered, authority, robot):
    made = Origin(place / "restarted", authority, port=free_port(), users=(robot.subject,))
    events(made.store / "x.root").chmod(0o644)
    with Proxy(rendered("outage", xrootd_permit=[f"localhost:{made.port}"], xrootd_connect_timeout=2), free_port()) as proxy:
        url = proxy.through(f"{made.url}//store/x.root")
        with made:
            assert read(place, url) == [X]
        assert not readable(place, url)
        (made.folder / "run").rename(made.folder / "run.old")
        with made:
            until = time.monotonic() + 40
            while not readable(place, url):
                assert time.monotonic() < until
                time.sleep(1)


def test_a_cache_takes_no_file_for_another(place, rendered, origin, other):
    """The cache knows files by their path alone, so the role wants to be told that they are the same."""
    both = {"xrootd_permit": [f"localhost:{found.port}" for found in (origin, other)], "xrootd_cache": True, "xrootd_cache_size": "2GB"}
    with pytest.raises(AssertionError, match="the cache knows files by their path alone"):
        rendered("refused", made=False, **both)
    with Proxy(rendered("one-namespace", xrootd_cache_one_namespace=True, **both), free_port()) as proxy:
        assert read(place, *(proxy.through(f"{found.url}//store/x.root") for found in (origin, other))) == [X, X]
