"""Operators' orders, and their answers. The author of an order is the sender of its event (`contracts.envelope`)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, Field

from ..api_keys import ApiKey
from ..attachments import Attachment
from ..codes import Code
from ..limits import AtMost
from ..mirrors import Mirror
from ..policy import ReleasePolicy
from ..vocabulary import Contract, Digest, Environment, Fact, Instant, Ratio, Target

Epoch = Annotated[int, Field(ge=0)]


class _Order(Fact):
    """An order; it is void from `expires_at` on, by default 15 minutes after its time."""

    reason: str
    expires_at: Instant | None = None


class _RouteOrder(_Order):
    """An order that is void once the route was edited after `epoch`; None for any epoch."""

    epoch: Epoch | None = None


class ApprovalGranted(_RouteOrder):
    """An operator approved the release of a manifest, identified by its digest."""

    TYPE: ClassVar[str] = "slipway.approval.granted.v1"

    release_id: str
    manifest_digest: Digest
    reason: str = ""


class ReleaseCancelled(_Order):
    """An operator cancelled a release."""

    TYPE: ClassVar[str] = "slipway.release.cancelled.v1"

    release_id: str


class ReleaseHeld(_Order):
    """An operator paused a release before its next step, or resumed it; a running step continues.

    Attributes:
        paused: False resumes the release.
    """

    TYPE: ClassVar[str] = "slipway.release.held.v1"

    release_id: str
    paused: bool
    reason: str = ""


class CanaryAdvanced(_RouteOrder):
    """An approver advanced a candidate without a verdict, if the policy permits it or the deadline has passed.

    Attributes:
        weight_ratio: The traffic share to end; 0 for the shadow.
    """

    TYPE: ClassVar[str] = "slipway.canary.advanced.v1"

    release_id: str
    weight_ratio: Annotated[float, Field(ge=0.0, lt=1.0)]
    reason: str = ""


class ApprovalDenied(_Order):
    """An approver ended a release that waits for approval."""

    TYPE: ClassVar[str] = "slipway.approval.denied.v1"

    release_id: str


class RollbackOrdered(_RouteOrder):
    """An operator ordered a rollback."""

    TYPE: ClassVar[str] = "slipway.rollback.ordered.v1"

    failed: Target | None = None
    to_version: int | None = None


class DrillFault(Contract):
    """The fault that a drill injects into the requests that it selects; `contracts.drills` defines each in detail.

    Attributes:
        delay_ms: Delay before the request is sent to the target.
        error_ratio: Share of the affected requests that fail without reaching the target.
        garble: The answer is replaced by a repeated word.
        answer: The answer becomes empty, a refusal, or is cut off.
        token_delay_ms: Delay per token of the answer after its first part.
        queue_delay_ms: Delay before sending, reported as time in the engine's queue.
        output_tokens: Number of answer tokens in telemetry.
        logprob_shift: Shift of the mean log-probability in telemetry, in nats.
        nan_logits: Telemetry reports NaN logits.
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
        """Return whether no fault is set."""
        return self == DrillFault()


class DrillOrdered(_RouteOrder):
    """An operator ordered a drill, labelled in answers, telemetry and alerts.

    The drill ends at `expires_at`; an order with `share_ratio` 0 ends it now.
    """

    TYPE: ClassVar[str] = "slipway.drill.ordered.v1"

    target: Target
    fault: DrillFault
    share_ratio: Ratio
    expires_at: Instant
    environment: Environment = "staging"


class SuspensionDecided(_RouteOrder):
    """An operator decided about a suspended target.

    Attributes:
        decision: `confirm` quarantines the target as the cause; `return` returns it as a canary.
        at_once: The target returns to all traffic without a canary.
    """

    TYPE: ClassVar[str] = "slipway.suspension.decided.v1"

    target: Target
    decision: Literal["confirm", "return"]
    at_once: bool = False


class ErasureOrdered(_Order):
    """An administrator ordered the erasure of a version's texts; digests, figures and attestations stay.

    Attributes:
        kind: `held-out`: texts of its variants' quality measurement. `evaluation`: its evaluation set, also for other
            versions with the same set.
    """

    TYPE: ClassVar[str] = "slipway.erasure.ordered.v1"

    version: Annotated[int, Field(ge=1)]
    kind: Literal["held-out", "evaluation"] = "held-out"


class EndpointOrdered(_Order):
    """An administrator drained an endpoint of the serving fleet, or returned it to use.

    The order is published under `all-models`. A drained endpoint gets no new targets; its production targets are loaded
    on other endpoints, one version after another.

    Attributes:
        endpoint: Name in server-manager's settings; the first Triton of a runtime has the runtime's name.
        drained: False returns the endpoint to use.
    """

    TYPE: ClassVar[str] = "slipway.endpoint.ordered.v1"

    endpoint: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    drained: bool


RecordKind = Literal["policy", "api-key", "mirror", "attachment"]
RECORDS: Final[dict[RecordKind, tuple[str, type[BaseModel]]]] = {
    "policy": ("policies", ReleasePolicy),
    "api-key": ("api-keys", ApiKey),
    "mirror": ("mirrors", Mirror),
    "attachment": ("attachments", Attachment),
}
"""Bucket and type of each kind of record that the registry writes by order."""
OF_A_MODEL: Final[frozenset[RecordKind]] = frozenset({"policy", "attachment"})
"""Kinds with a model as their key; their orders are published under it."""


class RecordOrdered(Fact):
    """An administrator ordered that the registry stores or removes a policy, an API key, a mirror, or an attachment.

    Orders about policies and attachments are published under their model, the others under `all-models`.

    Attributes:
        name: Key in the bucket: a model, the id of an API key, or the name of an external registry.
        record: The new record; None removes the present one.
        before: Digest of the record to replace, None if there must be none; the order is void otherwise.
    """

    TYPE: ClassVar[str] = "slipway.record.ordered.v1"

    kind: RecordKind
    name: Annotated[str, Field(min_length=1, max_length=200)]
    record: Annotated[dict[str, Any] | None, AtMost(json_bytes=200_000)] = None
    before: Digest | None = None
    expires_at: Instant | None = None


class OrderAccepted(Fact):
    """An order was recorded or carried out; `details` are its result so far.

    Orders of rollbacks are answered by `rollback.started`, `rollback.completed` and `rollback.failed`.
    """

    TYPE: ClassVar[str] = "slipway.order.accepted.v1"

    order_id: str
    order_type: str
    details: dict[str, Any] = {}


class AuditRecorded(Fact):
    """A change without another event: to keys of bus and store, teams, dead letters, removed objects.

    The program that makes the change publishes it with the same credential, under `all-models`.

    Attributes:
        action: Name of the change, such as `team.set` or `key.retire`.
        about: The changed identity, team, message or bucket.
        occurred_at: Time of the change.
    """

    TYPE: ClassVar[str] = "slipway.audit.recorded.v1"

    action: Annotated[str, Field(pattern=r"^[a-z]+([.-][a-z]+)*$", max_length=64)]
    about: Annotated[str, Field(max_length=200)] = ""
    occurred_at: Instant
    details: dict[str, Any] = {}


class OrderRefused(Fact):
    """An order was refused; `reason` includes advice."""

    TYPE: ClassVar[str] = "slipway.order.refused.v1"

    order_id: str
    order_type: str
    code: Code
    reason: str
