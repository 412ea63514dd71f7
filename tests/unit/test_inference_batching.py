"""Requests that are predicted together get what each would get alone; too many and too old ones are refused; large ones hold up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.errors import BundleError
from mlaas.inference.batching import SMALL, Load, Queue
from mlaas.models.engine import onnx_engine
from mlaas.web.problem import Problem
from tests.support.served import Weights

ROW = st.lists(st.one_of(st.none(), st.floats(-100, 100, width=32)), min_size=3, max_size=3)
REQUEST = st.one_of(ROW, st.lists(ROW, min_size=1, max_size=5), st.integers(SMALL + 1, 4 * SMALL))


def run(test: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(test())


def matrix(rows: Any) -> np.ndarray:
    return np.array(rows, np.float32)


def as_rows(request: Any, number: int) -> np.ndarray:
    """The events of a request: one row, some rows, or so many made-up ones."""
    if isinstance(request, int):
        return matrix(np.arange(request * 3).reshape(-1, 3) % 89 + number)
    return matrix(request if request and isinstance(request[0], list) else [request])


@given(st.lists(REQUEST, min_size=1, max_size=20), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1, 7, 100]))
@settings(max_examples=60, deadline=None)
def test_each_request_gets_its_own_scores(requests, mask, inline, together, rows):
    model = Weights(mask=mask, inline=inline)

    async def test() -> list[np.ndarray]:
        queue = Queue(model, Load(rows=rows, together=together))
        answers = []
        for number, request in enumerate(requests):
            single = isinstance(request, list) and not isinstance(request[0], list)
            answers.append(queue.row(request) if single else queue.matrix(as_rows(request, number)))
        return await asyncio.gather(*answers)

    for number, (request, scores) in enumerate(zip(requests, run(test), strict=True)):
        x = as_rows(request, number)
        padding = np.isnan(x)
        expected = Weights().run(np.where(padding, 0, x)) + (1000 * padding.sum(axis=1) if mask else 0)
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert max(model.sizes) <= max(rows, SMALL, 5)
    assert together or len(model.sizes) >= len(requests)


def test_batches_form_by_themselves_and_equal_single_predictions(tmp_path):
    from mlaas.models.bundle import write_bundle
    from tests.support.trained import X, logistic

    manifest = write_bundle(tmp_path / "m", logistic(), {"features.json": {}})
    engine = onnx_engine((tmp_path / "m" / "model.onnx").read_bytes(), manifest)
    model = Weights(width=X.shape[1])
    model.run = lambda x, mask=None: (model.sizes.append(len(x)), engine.run(x, mask))[1]  # type: ignore[method-assign]

    async def test() -> list[np.ndarray]:
        queue = Queue(model, Load())
        return await asyncio.gather(*(queue.row(row.tolist()) for row in X))

    together = np.concatenate(run(test))
    assert model.sizes == [len(X)]
    np.testing.assert_allclose(together, [engine.run(row[None], None)[0] for row in X], atol=1e-6)


def test_a_mask_that_is_given_counts_beside_nan():
    async def test() -> Any:
        queue = Queue(Weights(mask=True), Load())
        x = matrix([[1, 1, np.nan]])
        return await asyncio.gather(queue.matrix(x), queue.matrix(x, matrix([[1, 0, 0]])), queue.row([None, None, 1.0]))

    assert [scores.tolist() for scores in run(test)] == [[1003], [1003], [2003]]


@pytest.mark.parametrize("inline", [True, False])
def test_what_one_request_spoils_is_spoilt_for_nobody_else(inline):
    async def test() -> list[Any]:
        queue = Queue(Weights(inline=inline), Load())
        rows: list[Any] = [[1.0, 2.0, 3.0], [1e39, 0.0, 0.0], [3.0, 2.0, 1.0], [0.0, 0.0, float("inf")]]
        return await asyncio.gather(*(queue.row(row) for row in rows), return_exceptions=True)

    first, second, third, fourth = run(test)
    assert (first[0], third[0]) == (14, 10)
    assert str(second) == "value 0 is infinite or too large for a 32-bit number"
    assert "value 2" in str(fourth)


@pytest.mark.parametrize("inline", [True, False])
def test_a_model_that_fails_is_told_of_in_a_sentence(inline):
    class Broken(Weights):
        def run(self, x: Any, mask: Any = None) -> Any:
            if len(x) > 1 or x[0, 0] == 7:
                raise BundleError("it does not run")
            return super().run(x, mask)

    async def test() -> tuple[list[Any], int]:
        load = Load()
        queue = Queue(Broken(inline=inline), load)
        found = await asyncio.gather(*(queue.row([float(value), 0.0, 0.0]) for value in (1, 7)), return_exceptions=True)
        return found, load.waiting

    (first, second), waiting = run(test)
    assert isinstance(second, Problem)
    assert (second.status, second.detail) == (500, "the model local:weights@1 failed: it does not run")
    assert not inline or first == [1]
    assert waiting == 0


def test_too_many_are_refused_with_retry_after():
    async def test() -> tuple[list[Any], int]:
        load = Load(most=3)
        queue = Queue(Weights(), load)
        answers = [queue.row([1.0, 1.0, 1.0]) for _ in range(3)]
        with pytest.raises(Problem) as caught:
            queue.row([1.0, 1.0, 1.0])
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
        found = await asyncio.gather(*answers)
        await queue.row([1.0, 1.0, 1.0])
        return found, load.waiting

    found, waiting = run(test)
    assert [scores.tolist() for scores in found] == [[6]] * 3
    assert waiting == 0


@pytest.mark.parametrize("rows", [1, SMALL + 1])
def test_too_old_ones_are_refused_and_the_next_are_served(rows):
    async def test() -> Any:
        now = [0.0]
        load = Load(age=1.0, clock=lambda: now[0])
        queue = Queue(Weights(), load)
        late = queue.matrix(np.ones((rows, 3), np.float32))
        now[0] = 1.5
        with pytest.raises(Problem, match="longer than 1 s") as caught:
            await late
        assert caught.value.status == 503
        for _ in range(3):  # the loop has nothing to do
            await asyncio.sleep(0)
        scores = await queue.row([1.0, 1.0, 1.0])
        assert load.waiting == 0
        return scores

    assert run(test).tolist() == [6]


def test_the_time_in_the_sockets_counts():
    """Requests in every turn: what is read in one may have been sent when the one before began."""

    async def test() -> list[bool]:
        now, refused = [0.0], []
        load = Load(age=1.0, clock=lambda: now[0])
        for seconds in (0.1, 0.4, 0.5, 0.8, 0.3, 0.1, 0.1):
            try:
                load.since()
                now[0] += seconds
                load.since()
                refused.append(False)
            except Problem:
                refused.append(True)
            await asyncio.sleep(0)
        return refused

    # a turn and the one before: 0.1, 0.5, 0.9, 1.3, 1.1, 0.4, 0.2
    assert run(test) == [False, False, False, True, True, False, False]


def test_small_requests_do_not_wait_for_large_ones():
    async def test() -> tuple[int, int, Any]:
        model = Weights()
        queue = Queue(model, Load(rows=SMALL))
        large = [asyncio.ensure_future(queue.matrix(np.full((50 * SMALL, 3), value, np.float32))) for value in (1, 2)]
        await asyncio.sleep(0)
        small = await queue.row([1.0, 1.0, 1.0])
        before = len(model.sizes)
        scores = await asyncio.gather(*large)
        assert [set(part.tolist()) for part in scores] == [{6.0}, {12.0}]
        return before, len(model.sizes), small

    before, after, small = run(test)
    assert small.tolist() == [6]
    assert before <= 4
    assert after >= 101


@pytest.mark.parametrize("rows", [1, 10 * SMALL])
def test_nothing_is_predicted_for_who_has_gone(rows):
    async def test() -> tuple[list[int], int]:
        model, load = Weights(), Load(rows=SMALL)
        queue = Queue(model, load)
        gone = queue.matrix(np.ones((rows, 3), np.float32))
        gone.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        return model.sizes, load.waiting

    assert run(test) == ([], 0)


def test_models_in_processes_of_their_own_get_the_next_batch_before_they_have_answered_the_last():
    async def test() -> list[int]:
        release = asyncio.Event()
        flying = []

        class Slow(Weights):
            async def infer(self, x: Any, mask: Any = None) -> Any:
                flying.append(len(x))
                await release.wait()
                return self.run(x, mask)

        queue = Queue(Slow(inline=False), Load())
        answers = []
        for number in (1, 2, 3):
            answers += [queue.row([1.0, 1.0, 1.0]) for _ in range(number)]
            await asyncio.sleep(0.01)
        in_flight = list(flying)
        release.set()
        assert [scores.tolist() for scores in await asyncio.gather(*answers)] == [[6]] * 6
        return in_flight

    assert run(test) == [1, 2]
