"""The drill in progress of a model and environment: a record in the bucket `drills` that gateways watch.

Effect of each fault on an affected request. Its telemetry record names the drill, and counts for the metrics that the
fault worsens even if the caller's parameters force them.

    delay_ms, queue_delay_ms: The request is sent after their sum. `queue_ms` of the record rises by `queue_delay_ms`.
    token_delay_ms: Each part of the answer after the first is delayed by this time per token, for the caller and in
        the record: a lower bound of the mean inter-token latency.
    error_ratio: This share fails with `engine_failed` without reaching the target.
    garble, answer `empty` and `refusal`: The text is replaced.
    answer `cut`: The text ends after its first word, with the finish reason `length`.
    output_tokens: Number of tokens in the record, with the finish reason `stop` (except for `cut`).
    logprob_shift: Added to `logprob_mean` of the record, or its value if the engine reported none.
    nan_logits: `nan_logits` of the record is true.

Delays end with the drill. The last three change complete answers' records only
(`decisions.rollback.drills.change_record`).
"""

from __future__ import annotations

from datetime import timedelta

from .facts import DrillFault
from .vocabulary import Contract, Environment, Instant, Ratio, Target

LONGEST = timedelta(hours=1)
"""Longest duration of a drill."""


class Drill(Contract):
    """A fault that the gateway injects into a share of one target's requests until it expires."""

    drill_id: str
    target: Target
    environment: Environment
    fault: DrillFault
    share_ratio: Ratio
    starts_at: Instant
    expires_at: Instant
    actor: str
    reason: str
    ordered_at: Instant | None = None
    """Time at which the bus stored the order; orders stored earlier are ignored."""
