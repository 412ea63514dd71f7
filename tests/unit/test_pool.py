"""The pool of a worker: what it finds, what it keeps, what it lets go. No process of a model is needed: the graphs are plain."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from mlaas.auth.identity import Identity
from mlaas.inference import probes
from mlaas.inference.pool import ModelPool
from mlaas.inference.served import NotLoaded
from mlaas.inference.versions import Inline
from mlaas.models.bundle import read_bundle, write_bundle
from mlaas.models.catalogue import Catalogue
from mlaas.models.repository import Repository
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.web.problem import Problem
from tests.support import trained

ALICE = Identity("alice", "alice", "x", groups=frozenset({"/cms"}))
FAST = {
    "record": {
        "form": "onnx",
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, trained.WIDTH]}],
        "outputs": [{"name": "scores", "dtype": "FP32", "shape": [-1]}],
        "answer": "scores",
    },
    "plain": True,
    "rows": True,
    "seconds": {"1": 1e-5, "64": 1e-4, "1024": 1e-3},
    "memory": 0,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool") / "m"
    write_bundle(folder, trained.logistic(), {"model.py": ""})
    return read_bundle(folder)


@pytest.fixture
def make(tmp_path, bundle):
    settings = Settings(data=tmp_path, inference_poll=0.02, inference_idle=600)
    places = Places.of(settings)

    def publish(tenant: str, model: str) -> None:
        published = Repository(places.repository).publish(bundle, tenant, model)
        probes.write(probes.place(places.run / "inference", published), FAST)  # as if it had been measured before

    return settings, places, publish


async def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def run(test, settings, places):
    async def inner():
        pool = ModelPool(settings, places)
        await pool.start()
        try:
            await test(pool)
        finally:
            await pool.stop()

    asyncio.run(inner())


def test_found_when_asked_for_and_followed_from_then_on(make):
    settings, places, publish = make

    async def test(pool):
        with pytest.raises(NotLoaded):
            pool.get("m", ALICE)
        with pytest.raises(Problem, match="no model 'm'") as caught:
            await pool.load("m", ALICE)
        assert caught.value.status == 404
        publish("alice", "m")
        first = await pool.load("m", ALICE)
        assert isinstance(first, Inline)
        assert pool.get("m", ALICE) is first
        publish("alice", "m")
        await until(lambda: pool.get("m", ALICE).version == 2)
        assert first.run(trained.X[:2]).shape == (2,)  # whoever holds the old one can still use it
        assert pool.versions("m", ALICE) == [1, 2]
        Catalogue(places.repository).set_alias("alice", "m", "best", 1)
        assert (await pool.load("m@best", ALICE)).version == 1
        Catalogue(places.repository).set_alias("alice", "m", "best", 2)
        await until(lambda: pool.get("m@best", ALICE).version == 2)

    run(test, settings, places)


def test_what_is_taken_back_is_gone_and_an_own_model_hides_a_shared_one(make):
    settings, places, publish = make
    catalogue = Catalogue(places.repository)

    async def test(pool):
        publish("bob", "m")
        catalogue.share("bob", "m", "/cms")
        assert (await pool.load("m", ALICE)).tenant == "bob"
        with pytest.raises(NotLoaded):
            pool.get("m", Identity("alice", "alice", "x"))  # the same user with another token, without the group
        publish("alice", "m")
        await until(lambda: pool.get("m", ALICE).tenant == "alice")
        assert (await pool.load("bob:m", ALICE)).tenant == "bob"
        catalogue.unshare("bob", "m", "/cms")
        await until(lambda: ("bob:m", "alice", ALICE.groups, False) not in pool._routes)
        with pytest.raises(Problem) as caught:
            await pool.load("bob:m", ALICE)
        assert caught.value.status == 404

    run(test, settings, places)


def test_unused_models_leave_memory(make):
    settings, places, publish = make
    publish("alice", "m")

    async def test(pool):
        await pool.load("m", ALICE)
        assert len(await pool.states(ALICE)) == 1
        await until(lambda: not pool._versions)
        with pytest.raises(NotLoaded):
            pool.get("m", ALICE)

    run(test, settings.model_copy(update={"inference_idle": 0.1}), places)


def test_memory_is_bounded_and_the_least_used_goes(make):
    settings, places, publish = make
    for model in ("a", "b", "c"):
        publish("alice", model)
    size = 2 * (places.repository / "alice" / "a" / "1" / "model.onnx").stat().st_size

    async def test(pool):
        await pool.load("a", ALICE)
        await pool.load("b", ALICE)
        pool.get("a", ALICE)
        await pool.load("c", ALICE)
        assert {version.model for version in pool._versions.values()} == {"a", "c"}

    run(test, settings.model_copy(update={"inference_memory": 2 * size}), places)


def test_those_who_wait_for_the_same_model_share_its_loading(make):
    settings, places, publish = make
    publish("alice", "m")

    async def test(pool):
        asked = [asyncio.ensure_future(pool.load("m", ALICE)) for _ in range(20)]
        await asyncio.sleep(0)
        asked[0].cancel()  # the first one goes away
        found = await asyncio.gather(*asked[1:])
        assert len({id(served) for served in found}) == 1

    run(test, settings, places)


def test_a_changed_graph_is_refused(make):
    settings, places, publish = make
    publish("alice", "m")
    path = places.repository / "alice" / "m" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"x")

    async def test(pool):
        with pytest.raises(Problem, match=r"model\.onnx has changed") as caught:
            await pool.load("m", ALICE)
        assert (caught.value.status, "Retry-After" in caught.value.headers) == (503, True)
        assert [state["reason"] for state in await pool.states(ALICE)] == [caught.value.detail]
        assert await pool.states(Identity("bob", "bob", "x")) == []

    run(test, settings, places)


def test_only_plain_and_fast_graphs_run_inside_a_worker():
    assert probes.is_fast(FAST)
    slow = [FAST["seconds"] | change for change in ({"64": 1e-2}, {"1024": 0.2})]
    for seconds in ({"1": 1e-5}, {}, *slow):
        assert not probes.is_fast(FAST | {"seconds": seconds})
    assert not probes.is_fast(FAST | {"plain": False})
    assert not probes.is_fast(FAST | {"memory": 10**9})


def test_damaged_records_of_probes_are_measured_again(tmp_path):
    path = tmp_path / "probes" / "x.json"
    assert probes.read(path) is None
    probes.write(path, FAST)
    assert probes.read(path) == json.loads(json.dumps(FAST))
    for damage in ("{", "[]", "7"):
        path.write_text(damage)
        assert probes.read(path) is None
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"]
