"""Orders of people: approve, cancel, roll back, drill, lift a quarantine."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..codes import Code
from ..vocabulary import Contract, Digest, Environment, Instant, Ratio, Target
from .fact import Fact

Who = Annotated[str, Field(min_length=1, max_length=200)]


Epoch = Annotated[int, Field(ge=0)]


class ApprovalGranted(Fact):
    """A person approves a release; the digest says exactly what was approved.

    `epoch` is the route's at that moment: an approval given while something else served production is void.
    """

    TYPE: ClassVar[str] = "slipway.approval.granted.v1"

    release_id: str
    manifest_digest: Digest
    who: Who
    reason: str = ""
    expires_at: Instant | None = None
    epoch: Epoch | None = None


class ReleaseCancelled(Fact):
    """A person stops a release; it names no epoch, because a release is stopped whatever serves meanwhile."""

    TYPE: ClassVar[str] = "slipway.release.cancelled.v1"

    release_id: str
    who: Who
    reason: str
    expires_at: Instant | None = None


class RollbackOrdered(Fact):
    """A person orders a rollback; with `epoch` it is void once the route has changed."""

    TYPE: ClassVar[str] = "slipway.rollback.ordered.v1"

    who: Who
    reason: str
    failed: Target | None = None
    to_version: int | None = None
    expires_at: Instant | None = None
    epoch: Epoch | None = None


class DrillFault(Contract):
    """What a drill does to the requests that it touches.

    Attributes:
        delay_ms: added before the request goes to the target.
        error_ratio: share of the touched requests that fail without reaching the target.
        garble: the answer's words come out as one word, over and over.
        answer: what the answer becomes: nothing, or a refusal.
    """

    delay_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    error_ratio: Ratio = 0.0
    garble: bool = False
    answer: Literal["empty", "refusal"] | None = None

    @property
    def does_nothing(self) -> bool:
        """Return whether it would change no request at all."""
        return self == DrillFault()


class DrillOrdered(Fact):
    """A person orders a fault, labelled everywhere and ending by itself.

    The order is void from `expires_at` on, which is also when the drill ends. `share_ratio` 0 ends the drill.
    """

    TYPE: ClassVar[str] = "slipway.drill.ordered.v1"

    who: Who
    reason: str
    target: Target
    fault: DrillFault
    share_ratio: Ratio
    expires_at: Instant
    environment: Environment = "staging"
    epoch: Epoch | None = None


class QuarantineLifted(Fact):
    """A person allows a quarantined target again."""

    TYPE: ClassVar[str] = "slipway.quarantine.lifted.v1"

    who: Who
    reason: str
    target: Target
    kind: Literal["target"] = "target"
    expires_at: Instant | None = None
    epoch: Epoch | None = None


class OrderRefused(Fact):
    """An order of a person was not carried out; `reason` says why and what to do."""

    TYPE: ClassVar[str] = "slipway.order.refused.v1"

    order_id: str
    order_type: str
    who: str = ""
    release_id: str | None = None
    code: Code
    reason: str
