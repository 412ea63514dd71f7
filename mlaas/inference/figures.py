"""The figures of the predictions: plain numbers while requests are answered, given to Prometheus once a second.

Prometheus' own objects take a lock and write to a file for each request, which costs more than what they would measure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from prometheus_client import Gauge, Histogram

from mlaas.web import metrics

EVENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
FLUSH = 1.0  # s

BATCH = Histogram("mlaas_inference_batch_events", "Events that were predicted together.", buckets=EVENTS)
WAITING = Gauge("mlaas_inference_requests_waiting", "Requests that wait for a model.", multiprocess_mode="livesum")


class Tally:
    """Observations by bucket, not yet told."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """One observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def tell(self, histogram: Any) -> None:
        """Add all to a histogram with the same bounds (a child, where it has labels), and begin anew."""
        for bucket, count in zip(histogram._buckets, self._counts, strict=True):  # there is no public way to add many at once
            if count:
                bucket.inc(count)
        if self._sum:
            histogram._sum.inc(self._sum)
        self._counts = [0] * len(self._counts)
        self._sum = 0.0


class Figures:
    """What this process has done since it last told."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: dict[tuple[str, str], Tally] = defaultdict(lambda: Tally(metrics.SECONDS))
        self._batches = Tally(EVENTS)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._answered[route, method, status] += 1
        self._seconds[route, method].add(seconds)

    def batch(self, events: int) -> None:
        """That many events were predicted together."""
        self._batches.add(events)

    def tell(self, waiting: int) -> None:
        """Give everything to Prometheus."""
        for (route, method, status), count in self._answered.items():
            metrics.REQUESTS.labels(route, method, str(status)).inc(count)
        self._answered.clear()
        for labels, tally in self._seconds.items():
            tally.tell(metrics.LATENCY.labels(*labels))
        self._batches.tell(BATCH)
        WAITING.set(waiting)
