"""Histograms and recent maxima, against the plain definition."""

from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.measures import SECONDS, Histogram, RecentMaximum

values = st.lists(st.one_of(st.floats(0, 20), st.sampled_from(SECONDS)))


@given(values, values)
def test_a_histogram_counts_what_is_up_to_each_bound(first: list[float], second: list[float]) -> None:
    """A value at a bound is in its bucket; two histograms together have the values of both."""
    histograms = []
    for some in (first, second):
        histogram = Histogram()
        for value in some:
            histogram.observe(value)
        histograms.append(histogram)
    histograms[0].add(histograms[1])
    both = first + second
    assert histograms[0].cumulative() == [(bound, sum(value <= bound for value in both)) for bound in (*SECONDS, float("inf"))]
    assert histograms[0].count == len(both)
    assert abs(histograms[0].total - sum(both)) < 1e-6


def test_a_recent_maximum_forgets_what_is_older_than_two_windows() -> None:
    recent = RecentMaximum(15.0)
    recent.note(3.0, 100.0)
    recent.note(1.0, 101.0)
    assert recent.value(114.0) == 3.0
    assert recent.value(120.0) == 3.0, "of the window before"
    recent.note(2.0, 121.0)
    assert recent.value(136.0) == 2.0
    assert recent.value(200.0) == 0.0
