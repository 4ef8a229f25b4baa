"""Reads the latency histograms of window summaries: HdrHistogram's compressed format in base64, microseconds."""

import binascii
import struct
import zlib

from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram

UNITS_PER_MS = 1000.0
_UNREADABLE = (
    binascii.Error,
    zlib.error,
    struct.error,
    ValueError,
    TypeError,
    HdrCookieException,
    HdrLengthException,
)


class UnreadableHistogramError(ValueError):
    """The text is no histogram."""


def count_over(text: str, threshold_ms: float) -> tuple[int, int]:
    """Return how many latencies a histogram holds, and how many of them are over a threshold.

    A histogram has three significant digits: what is above the threshold by less than 0.1 % may count as within.

    Raises:
        UnreadableHistogramError: the text is no histogram.
    """
    try:
        histogram = HdrHistogram.decode(text.encode())
    except _UNREADABLE as error:
        raise UnreadableHistogramError(f"no histogram: {error!r}") from error
    total = int(histogram.total_count)
    if not total or threshold_ms * UNITS_PER_MS >= histogram.max_value:
        return total, 0
    # the library's own iterator takes 200 times as long, and a week has ten thousand windows
    first = histogram.get_counts_array_index(int(threshold_ms * UNITS_PER_MS)) + 1
    return total, sum(histogram.counts[first:])
