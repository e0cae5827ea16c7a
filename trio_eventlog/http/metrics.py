"""`/metrics`: readings of a node in the text format of Prometheus, or as OpenMetrics when that is asked for."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from trio_eventlog.http.readings import Metric, MetricKind, Reading
from trio_eventlog.measures import Histogram


class NodeCollector(Collector):
    """Turns readings into families."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Family]:
        return map(family, self._readings)


def family(reading: Reading) -> Family:
    """One metric with its series."""
    metric = reading.metric
    if metric.kind is MetricKind.HISTOGRAM:
        return _histogram(metric, reading.series)
    cls = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
    made: Family = cls(metric.name, metric.help, labels=metric.labels)
    for labels, value in reading.series:
        assert not isinstance(value, Histogram)
        made.add_metric(labels, value)  # type: ignore[attr-defined]  # Both classes have it.
    return made


def _histogram(metric: Metric, series: Sequence[tuple[tuple[str, ...], float | Histogram]]) -> Family:
    made = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in series:
        assert isinstance(value, Histogram)
        buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in value.cumulative()]
        made.add_metric(labels, buckets, value.total)
    return made


def written(readings: Iterable[Reading], accept: str) -> tuple[bytes, str]:
    """The readings and their content type, in the format that `accept` prefers."""
    # A registry for each question: nothing is kept in between, and several nodes in a process have nothing in common.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(readings))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
