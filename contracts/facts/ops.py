"""Operators' orders: approve, cancel, roll back, drill, lift a quarantine.

Who gave an order is not in it: it is the sender of its event, which the bus checks (`contracts.envelope`).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..codes import Code
from ..vocabulary import Contract, Digest, Environment, Instant, Ratio, Target
from .fact import Fact

Epoch = Annotated[int, Field(ge=0)]


class ApprovalGranted(Fact):
    """An operator approved a release; the digest identifies exactly what was approved.

    `epoch` is the route's epoch at that moment: an approval that was given for another route is void.
    """

    TYPE: ClassVar[str] = "slipway.approval.granted.v1"

    release_id: str
    manifest_digest: Digest
    reason: str = ""
    expires_at: Instant | None = None
    epoch: Epoch | None = None


class ReleaseCancelled(Fact):
    """An operator cancelled a release; it has no epoch, because a cancellation does not depend on the route."""

    TYPE: ClassVar[str] = "slipway.release.cancelled.v1"

    release_id: str
    reason: str
    expires_at: Instant | None = None


class RollbackOrdered(Fact):
    """An operator ordered a rollback; with `epoch` it is void once the route has changed."""

    TYPE: ClassVar[str] = "slipway.rollback.ordered.v1"

    reason: str
    failed: Target | None = None
    to_version: int | None = None
    expires_at: Instant | None = None
    epoch: Epoch | None = None


class DrillFault(Contract):
    """What a drill does to the requests that it affects.

    Attributes:
        delay_ms: Delay before the request goes to the target.
        error_ratio: Share of the affected requests that fail without reaching the target.
        garble: The answer becomes one word, repeated.
        answer: The answer becomes empty, or a refusal, or is cut off.
        token_delay_ms: Delay of each part of an answer after its first one.
        queue_delay_ms: Delay before the request goes to the target, which telemetry reports as the engine's queue.
        output_tokens: Tokens of the answer in telemetry; its text stays as it is.
        logprob_shift: Nats by which the mean log-probability in telemetry is lower.
        nan_logits: Telemetry reports NaN logits.

    `contracts.drills` defines what the gateway does for each.
    """

    delay_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    error_ratio: Ratio = 0.0
    garble: bool = False
    answer: Literal["empty", "refusal", "cut"] | None = None
    token_delay_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    queue_delay_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    output_tokens: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    logprob_shift: Annotated[float, Field(ge=-1e6, le=0.0)] = 0.0
    nan_logits: bool = False

    @property
    def does_nothing(self) -> bool:
        """Return whether it would change no request at all."""
        return self == DrillFault()


class DrillOrdered(Fact):
    """An operator ordered a drill: a fault, labelled in answers, telemetry and alerts, that ends at its expiry.

    The order is void from `expires_at` on, which is also when the drill ends. `share_ratio` 0 ends the drill.
    """

    TYPE: ClassVar[str] = "slipway.drill.ordered.v1"

    reason: str
    target: Target
    fault: DrillFault
    share_ratio: Ratio
    expires_at: Instant
    environment: Environment = "staging"
    epoch: Epoch | None = None


class QuarantineLifted(Fact):
    """An operator lifted the quarantine of a target."""

    TYPE: ClassVar[str] = "slipway.quarantine.lifted.v1"

    reason: str
    target: Target
    kind: Literal["target"] = "target"
    expires_at: Instant | None = None
    epoch: Epoch | None = None


class OrderRefused(Fact):
    """An operator's order was refused; `reason` says why and what to do, `actor` whose order it was."""

    TYPE: ClassVar[str] = "slipway.order.refused.v1"

    order_id: str
    order_type: str
    actor: str = ""
    release_id: str | None = None
    code: Code
    reason: str
