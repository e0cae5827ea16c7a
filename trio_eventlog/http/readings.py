"""What `/metrics` shows, as values: what a metric is, and what it reads now."""

import enum
from collections.abc import Sequence

import attrs

from trio_eventlog.measures import Histogram


class MetricKind(enum.Enum):
    """What a metric's value does."""

    COUNTER = "counter"
    """Only grows, from 0 when the node is started."""
    GAUGE = "gauge"
    """Goes up and down."""
    HISTOGRAM = "histogram"
    """How often which values were met."""


@attrs.frozen(slots=True, kw_only=True)
class Metric:
    """A metric.

    Attributes:
        name: as it is queried. Of a counter it ends in `_total`.
        help: what is counted, in which unit.
        labels: names of what tells its series apart.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class Reading:
    """A metric as it is now: the values of each series' labels, and its value."""

    metric: Metric
    series: Sequence[tuple[tuple[str, ...], float | Histogram]]
