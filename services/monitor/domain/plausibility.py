"""Which telemetry records can be true."""

from contracts.facts import Inference

_LONGEST_MS = 86_400_000.0


def is_plausible(record: Inference) -> bool:
    """Return whether a record's figures can be true; implausible records are counted and ignored."""
    times = (record.e2e_ms, record.ttft_ms or 0.0, record.queue_ms or 0.0)
    itl = record.itl_ms
    gaps = (itl.mean, itl.p95, itl.max) if itl is not None else ()
    durations_can_be = all(0.0 <= duration < _LONGEST_MS for duration in (*times, *gaps))
    return durations_can_be and record.output_tokens >= 0 and (record.logprob_mean or 0.0) <= 0.0
