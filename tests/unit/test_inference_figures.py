"""What is counted by itself and told now and then is what Prometheus would have counted."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from mlaas.inference.figures import Tally


def test_a_tally_is_what_the_histogram_would_be():
    bounds, values = (0.1, 1.0, 10.0), [0.0, 0.1, 0.5, 1.0, 2.0, 10.0, 11.0, 1e9]
    texts = []
    for told in (False, True):
        registry = CollectorRegistry()
        histogram = Histogram("seconds", "Seconds.", ["route"], buckets=bounds, registry=registry)
        tally = Tally(bounds)
        for value in values:
            tally.add(value) if told else histogram.labels("/json").observe(value)
        if told:
            tally.tell(histogram.labels("/json"))
            tally.tell(histogram.labels("/json"))
        texts.append([line for line in generate_latest(registry).decode().splitlines() if "created" not in line])
    assert texts[0] == texts[1]
    assert any("seconds_count" in line for line in texts[0])
