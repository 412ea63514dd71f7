"""What /metrics tells of jobs, asked of the store at that moment; and the bytes of uploads."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from mlaas.errors import MLaaSError
from mlaas.store import jobs

log = logging.getLogger(__name__)
UPLOADS = Counter("mlaas_uploads_total", "Uploads that came to their end.", ["outcome"])
UPLOADED = Counter("mlaas_upload_bytes_total", "Bytes of uploads that were received.")


class Jobs(Collector):
    """Jobs by state, and the CPU seconds of all jobs that there ever were. Tells nothing while the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        try:
            counts, seconds = jobs.counts(self._engine), jobs.cpu_seconds(self._engine)
        except MLaaSError as error:
            log.warning("the figures of jobs are not there: %s", error)
            return
        states = GaugeMetricFamily("mlaas_jobs", "Jobs that there are, by state.", labels=["state"])
        for state, number in counts.items():
            states.add_metric([state], number)
        yield states
        yield CounterMetricFamily("mlaas_job_cpu_seconds", "CPU time of all jobs.", value=seconds)
