"""Prometheus metrics, right also when several processes serve one port. Every metric is in the table of README.md; a test keeps it complete.

A part with several processes sets PROMETHEUS_MULTIPROC_DIR before it starts them (`serving` does); each then keeps its figures in files of that
folder, and whoever is asked for /metrics adds them up. Metrics are module-level objects of prometheus_client, as usual; a Gauge needs a
`multiprocess_mode`. What is read at the moment of asking (jobs by state) is a collector: an object with `collect()`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody asks when a counter began
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets of latencies."""

REQUESTS = Counter("mlaas_http_requests_total", "Requests answered.", ["route", "method", "status"])
LATENCY = Histogram("mlaas_http_request_seconds", "Time from a request's headers to the end of its answer.", ["route", "method"], buckets=SECONDS)
RUNNING = Gauge("mlaas_http_requests_running", "Requests being answered.", multiprocess_mode="livesum")


def prepare(folder: Path) -> None:
    """Keep the figures of the processes that this one starts in a folder, emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    os.environ[FOLDER] = str(folder)


def ended(pid: int) -> None:
    """Forget what only counts while a process lives (gauges), after it has ended; its counters stay."""
    if FOLDER in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def exposition(collectors: Iterable[Collector] = ()) -> bytes:
    """All metrics in the text form of Prometheus; `collectors` are asked now."""
    registry = CollectorRegistry()
    if FOLDER in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(REGISTRY)
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry)
