"""Mergeable latency histograms (HdrHistogram): 1 µs to a day, three significant digits."""

import base64
from collections.abc import Iterable
from functools import lru_cache

from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 86_400_000_000
DIGITS = 3
UNITS_PER_MS = 1000.0
MIN_COUNT = {50.0: 1, 95.0: 20, 99.0: 100}
"""Minimum sample by percentile, so that at least one observation is expected beyond it."""


def _empty() -> HdrHistogram:
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def _decoded(text: str) -> HdrHistogram:
    return HdrHistogram.decode(text.encode()) if text else _empty()


@lru_cache(maxsize=1)
def empty_sketch() -> str:
    """Return an encoded empty histogram."""
    return encode(_empty())


def encode(histogram: HdrHistogram) -> str:
    """Return a histogram in HdrHistogram's compressed format (V2), as base64."""
    text: str = histogram.encode().decode()
    base64.b64decode(text, validate=True)
    return text


def add(text: str, values_ms: Iterable[float]) -> str:
    """Return an encoded histogram with latencies in milliseconds added."""
    values = list(values_ms)
    if not values:
        return text
    histogram = _decoded(text)
    for value in values:
        histogram.record_value(min(max(round(value * UNITS_PER_MS), LOWEST_US), HIGHEST_US))
    return encode(histogram)


def merge(texts: Iterable[str]) -> str:
    """Return the merge of encoded histograms."""
    merged = _empty()
    for text in texts:
        merged.add(_decoded(text))
    return encode(merged)


def percentile_ms(text: str, percentile: float) -> float | None:
    """Return a percentile in milliseconds; None if the sample is below `MIN_COUNT`."""
    histogram = _decoded(text)
    if histogram.total_count < MIN_COUNT.get(percentile, 1):
        return None
    return float(histogram.get_value_at_percentile(percentile)) / UNITS_PER_MS


def count(text: str) -> int:
    """Return the number of latencies in an encoded histogram."""
    return int(_decoded(text).total_count) if text else 0
