"""Operators' orders: approve, cancel, roll back, drill, lift a quarantine, erase, drain, store records.

Who gave an order is not in it: it is the sender of its event, which the bus checks (`contracts.envelope`).
"""

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
    """An order of an operator; from `expires_at` on, or 15 minutes after it was given, it changes nothing."""

    reason: str
    expires_at: Instant | None = None


class _RouteOrder(_Order):
    """An order that is void once the route has another epoch than `epoch`, its epoch when the order was given."""

    epoch: Epoch | None = None


class ApprovalGranted(_RouteOrder):
    """An operator approved a release; the digest identifies exactly what was approved.

    `epoch` is the route's epoch at that moment: an approval that was given for another route is void.
    """

    TYPE: ClassVar[str] = "slipway.approval.granted.v1"

    release_id: str
    manifest_digest: Digest
    reason: str = ""


class ReleaseCancelled(_Order):
    """An operator cancelled a release; it has no epoch, because a cancellation does not depend on the route."""

    TYPE: ClassVar[str] = "slipway.release.cancelled.v1"

    release_id: str


class ReleaseHeld(_Order):
    """An operator held a release before its next step, or let it continue; a running step, also a canary, continues.

    Attributes:
        paused: Whether it is held; False lets it go on.
    """

    TYPE: ClassVar[str] = "slipway.release.held.v1"

    release_id: str
    paused: bool
    reason: str = ""


class CanaryAdvanced(_RouteOrder):
    """An approver let a candidate go on without a verdict: where the policy does so, too, or after its deadline.

    Attributes:
        weight_ratio: The share that is not waited for any more; 0 for the shadow.
        epoch: The route's epoch at that moment: the order is void for another route.
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
    """An operator ordered a rollback; with `epoch` it is void once the route has changed."""

    TYPE: ClassVar[str] = "slipway.rollback.ordered.v1"

    failed: Target | None = None
    to_version: int | None = None


class DrillFault(Contract):
    """The effect of a drill on the requests that it selects.

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


class DrillOrdered(_RouteOrder):
    """An operator ordered a drill: a fault, labelled in answers, telemetry and alerts, that ends at its expiry.

    The order is void from `expires_at` on, which is also when the drill ends. `share_ratio` 0 ends the drill.
    """

    TYPE: ClassVar[str] = "slipway.drill.ordered.v1"

    target: Target
    fault: DrillFault
    share_ratio: Ratio
    expires_at: Instant
    environment: Environment = "staging"


class QuarantineLifted(_RouteOrder):
    """An operator lifted the quarantine of a target."""

    TYPE: ClassVar[str] = "slipway.quarantine.lifted.v1"

    target: Target


class SuspensionDecided(_RouteOrder):
    """An operator decided about a suspended target.

    Attributes:
        decision: `confirm`: it was the cause, and is quarantined. `return`: it was not, and returns as a canary.
        at_once: It returns to all traffic now.
    """

    TYPE: ClassVar[str] = "slipway.suspension.decided.v1"

    target: Target
    decision: Literal["confirm", "return"]
    at_once: bool = False


class ErasureOrdered(_Order):
    """An administrator ordered the erasure of a version's text; its digests, figures and attestations stay.

    Attributes:
        version: The version whose text is erased.
        kind: `held-out`: the texts that its variants were measured on. `evaluation`: its evaluation set, also where
            other versions used the same one.
    """

    TYPE: ClassVar[str] = "slipway.erasure.ordered.v1"

    version: Annotated[int, Field(ge=1)]
    kind: Literal["held-out", "evaluation"] = "held-out"


class EndpointOrdered(_Order):
    """An administrator ordered that an endpoint of the serving fleet is drained, or used again.

    It is about no model: it is published under `all-models`. A drained endpoint takes nothing new, and what it serves
    of production is loaded on others, version by version.

    Attributes:
        endpoint: Its name in the settings of server-manager; the first Triton of a runtime has the name of the runtime.
        drained: False lets it be used again.
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
"""Records that the registry writes as administrators order: bucket and type of each kind."""
OF_A_MODEL: Final[frozenset[RecordKind]] = frozenset({"policy", "attachment"})
"""Kinds whose key is a model, and whose orders are published under it."""


class RecordOrdered(Fact):
    """An administrator ordered that the registry stores or removes a policy, an API key, a mirror, or an attachment.

    It is published under the model of a policy or an attachment, and under `all-models` for the others.

    Attributes:
        kind: Kind of the record.
        name: Its key in the bucket: a model, the id of a key, or the name of a registry outside.
        record: The new record; None removes it. The record of a key holds its secret's digest, never the secret.
        before: Digest of the record to replace, None if none may exist; otherwise the order is void.
    """

    TYPE: ClassVar[str] = "slipway.record.ordered.v1"

    kind: RecordKind
    name: Annotated[str, Field(min_length=1, max_length=200)]
    record: Annotated[dict[str, Any] | None, AtMost(json_bytes=200_000)] = None
    before: Digest | None = None
    expires_at: Instant | None = None


class OrderAccepted(Fact):
    """An operator's order was recorded and is carried out, or was carried out at once.

    Orders of rollbacks are answered by `rollback.started`, `rollback.completed` and `rollback.failed`.

    Attributes:
        details: What came of it, where that is known by then.
    """

    TYPE: ClassVar[str] = "slipway.order.accepted.v1"

    order_id: str
    order_type: str
    details: dict[str, Any] = {}


class AuditRecorded(Fact):
    """A change without another event: to keys of bus and store, teams, dead letters, removed objects.

    The program that makes the change publishes it with the credential that makes it, under the model
    `all-models`.

    Attributes:
        action: What was done, such as `team.set` or `key.retire`.
        about: What it was done to: an identity, a team, a message, a bucket.
        occurred_at: When it was done.
    """

    TYPE: ClassVar[str] = "slipway.audit.recorded.v1"

    action: Annotated[str, Field(pattern=r"^[a-z]+([.-][a-z]+)*$", max_length=64)]
    about: Annotated[str, Field(max_length=200)] = ""
    occurred_at: Instant
    details: dict[str, Any] = {}


class OrderRefused(Fact):
    """An order was refused; `reason` says why and what to do."""

    TYPE: ClassVar[str] = "slipway.order.refused.v1"

    order_id: str
    code: Code
    reason: str
