"""Latency histograms: mergeable, three significant digits, one microsecond per unit below a day."""

import base64
from collections.abc import Iterable
from functools import lru_cache

from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 86_400_000_000
DIGITS = 3
UNITS_PER_MS = 1000.0
MIN_COUNT = {50.0: 1, 95.0: 20, 99.0: 100}
"""Least sample for each percentile: at least one observation is expected beyond it."""


def _empty() -> HdrHistogram:
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def _decoded(text: str) -> HdrHistogram:
    return HdrHistogram.decode(text.encode()) if text else _empty()


@lru_cache(maxsize=1)
def empty_sketch() -> str:
    """Return the sketch of nothing."""
    return encode(_empty())


def encode(histogram: HdrHistogram) -> str:
    """Return a histogram as text: HdrHistogram's own compressed format (V2) in base64."""
    text: str = histogram.encode().decode()
    base64.b64decode(text, validate=True)
    return text


def add(text: str, values_ms: Iterable[float]) -> str:
    """Add latencies in milliseconds to a sketch."""
    values = list(values_ms)
    if not values:
        return text
    histogram = _decoded(text)
    for value in values:
        histogram.record_value(min(max(round(value * UNITS_PER_MS), LOWEST_US), HIGHEST_US))
    return encode(histogram)


def merge(texts: Iterable[str]) -> str:
    """Merge sketches of several windows into one."""
    merged = _empty()
    for text in texts:
        merged.add(_decoded(text))
    return encode(merged)


def percentile_ms(text: str, percentile: float) -> float | None:
    """Return a percentile in milliseconds; None where the sample is too small for it."""
    histogram = _decoded(text)
    if histogram.total_count < MIN_COUNT.get(percentile, 1):
        return None
    return float(histogram.get_value_at_percentile(percentile)) / UNITS_PER_MS


def count(text: str) -> int:
    """Return how many latencies a sketch holds."""
    return int(_decoded(text).total_count) if text else 0
