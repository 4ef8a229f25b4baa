"""A drill in progress: the record that gateways watch, one per model and environment in the bucket `drills`.

What a gateway does for the faults of an affected request (its telemetry names the drill; the metrics that
its fault makes worse count, too, if its caller forced them):

    delay_ms, queue_delay_ms: it waits for their sum before it sends the request to the target. The record reports
        `queue_delay_ms` more in `queue_ms` (that alone if the engine reported none).
    token_delay_ms: it delivers each part of the answer after the first one so much later for each of its tokens, to the
        caller and by the times that the record is made of: the mean inter-token latency is at least so long.
    error_ratio: this share fails as `engine_failed`, without reaching the target.
    garble, answer `empty` and `refusal`: it replaces the text.
    answer `cut`: it ends the text after its first word. Caller and record get the finish reason `length`.
    output_tokens: the record reports this number, and that the answer ended there (but for `cut`).
    logprob_shift: the record's `logprob_mean` is so much lower (the shift alone if the engine reported none).
    nan_logits: the record's `nan_logits` is true.

No delay lasts beyond the end of the drill. The faults that only change the record, those from `output_tokens` on,
apply to complete answers; `decisions.rollback.drills.change_record` changes it.
"""

from __future__ import annotations

from datetime import timedelta

from .facts import DrillFault
from .vocabulary import Contract, Environment, Instant, Ratio, Target

LONGEST = timedelta(hours=1)
"""The longest duration of a drill."""


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
    """When the bus stored the order; an order that was stored earlier changes nothing."""
