"""Streams, and the facts and records of each service: source of provisioning, permissions and AsyncAPI document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from . import facts as f
from .api_usage import TRAFFIC_PREFIX
from .engine_deaths import DEATHS_PREFIX
from .facts import Fact
from .running import RUNNING_PREFIX
from .storage.uploads import UPLOADS, UploadAnswer, UploadRequest
from .vocabulary import MODEL_NAME_PATTERN, Contract, Environment

Stream = Literal["SLIPWAY_INBOX", "SLIPWAY_ORDERS", "SLIPWAY_EVENTS", "SLIPWAY_TELEMETRY", "SLIPWAY_DEADLETTER"]

Peer = Literal["triton", "agent", "gateway", "outside"]
"""Peers of a service besides bus and store: `agent` of a Triton; `outside`: hubs, registries, receivers of alerts."""

INBOX: Stream = "SLIPWAY_INBOX"
ORDERS: Stream = "SLIPWAY_ORDERS"
EVENTS: Stream = "SLIPWAY_EVENTS"
TELEMETRY: Stream = "SLIPWAY_TELEMETRY"
DEADLETTER: Stream = "SLIPWAY_DEADLETTER"
DEADLETTER_PREFIX = "slipway.deadletter"

RECORD_KEYS: dict[str, tuple[str, ...]] = {
    "alerts": ("*.{model}",),
    "api-keys": (),
    "api-usage": (),
    "attachments": ("{model}",),
    "audit": (),
    "drills": ("*.{model}",),
    "mirrors": (),
    "notifications": ("{model}",),
    "policies": ("{model}",),
    "releases": ("{model}.*",),
    "rollbacks": ("*.{model}",),
    "routes": ("{model}",),
    "servers": ("*.leader", "*.runtimes"),
    "staging-routes": ("{model}",),
}
"""Keys by KV bucket that members of a team may read: records about one of their models, or about no model."""

FROM_OUTSIDE: tuple[type[Fact], ...] = (
    f.CheckpointReady, f.ApprovalGranted, f.ReleaseCancelled, f.RollbackOrdered, f.DrillOrdered,
    f.SuspensionDecided, f.ErasureOrdered, f.AuditRecorded, f.ReleaseHeld, f.CanaryAdvanced,
    f.ApprovalDenied, f.EndpointOrdered, f.RecordOrdered,
)  # fmt: skip
NOT_STORED: tuple[type[Fact], ...] = (f.WorkProgressed,)


@dataclass(frozen=True)
class Exchange:
    """Requests to a service on `<subject>.<model>.<sender>`, without a stream."""

    subject: str
    request: type[Contract]
    answer: type[Contract]

    @property
    def filter(self) -> str:
        """Return the subject filter for all models and senders."""
        return f"{self.subject}.*.*"


@dataclass(frozen=True)
class ServiceContract:
    """The events, records and streams that one service reads and writes.

    Attributes:
        owns: KV buckets that only this service writes.
        forgets: KV buckets of which it removes records.
        edits: KV buckets of another service that it may write, too.
        staging: Facts of staging that it reads, too.
        reads_records: KV buckets of others that it reads.
        reports: Subjects without a stream that it publishes on.
        hears: Subjects without a stream that it subscribes to.
        answers: Requests of publishers that it answers.
        looks_up: Streams that it reads without a consumer.
        measures: Streams of which it reads the size.
        follows: Streams that it reads whole, as people do.
        calls: What it connects to besides bus and store.
    """

    name: str
    consumes: tuple[type[Fact], ...] = ()
    emits: tuple[type[Fact], ...] = ()
    owns: tuple[str, ...] = ()
    forgets: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    staging: tuple[type[Fact], ...] = ()
    reads_records: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()
    answers: tuple[Exchange, ...] = ()
    looks_up: tuple[Stream, ...] = ()
    measures: tuple[Stream, ...] = ()
    follows: tuple[Stream, ...] = ()
    calls: tuple[Peer, ...] = ()

    @property
    def reads(self) -> tuple[tuple[type[Fact], Environment], ...]:
        """Return the facts and environments that the service reads, each by a durable consumer."""
        production: tuple[tuple[type[Fact], Environment], ...] = tuple((fact, "production") for fact in self.consumes)
        return (*production, *((fact, "staging") for fact in self.staging))


SERVICES: dict[str, ServiceContract] = {
    service.name: service
    for service in (
        ServiceContract(
            "registry",
            consumes=(
                f.CheckpointReady, f.ApprovalGranted, f.ReleaseCancelled, f.CheckpointRejected, f.CheckpointMerged,
                f.VariantQuantised, f.VariantFailed, f.VariantBenchmarked, f.VariantEvaluated, f.VariantStaged,
                f.RehearsalCompleted,
                f.DeploymentChanged, f.PromotionRefused, f.CanaryAssessed, f.WorkAbandoned, f.ErasureOrdered,
                f.ReleaseHeld, f.CanaryAdvanced, f.ApprovalDenied, f.ShadowAssessed, f.RecordOrdered,
            ),
            emits=(
                f.ReleaseOpened, f.CheckpointRejected, f.VariantRequested, f.VersionRegistered, f.StageRequested,
                f.StageReleased, f.RehearsalRequested, f.ApprovalRequested, f.TrafficRequested, f.ReleaseFinished,
                f.DeadlinePassed, f.ReleaseProgressed, f.VariantFailed, f.OrderRefused, f.OrderAccepted, f.AlertRaised,
                f.AlertResolved,
            ),
            owns=("releases", "audit", "policies", "api-keys", "mirrors", "attachments"),
            forgets=("policies", "mirrors", "attachments"),
            reads_records=("routes",),
            answers=(Exchange(UPLOADS, UploadRequest, UploadAnswer),),
            looks_up=(INBOX, ORDERS),
            measures=(DEADLETTER,),
            calls=("outside",),
        ),
        ServiceContract(
            "merger",
            consumes=(f.ReleaseOpened,),
            emits=(f.CheckpointMerged, f.CheckpointRejected, f.WorkProgressed),
            calls=("outside",),
        ),
        ServiceContract(
            "quantiser",
            consumes=(f.VariantRequested,),
            emits=(f.VariantQuantised, f.VariantFailed, f.WorkProgressed),
            looks_up=(EVENTS,),
        ),
        ServiceContract(
            "server-manager",
            consumes=(
                f.ReleaseOpened, f.StageRequested, f.StageReleased, f.TrafficRequested, f.ReleaseFinished,
                f.EndpointOrdered,
            ),
            emits=(
                f.VariantStaged, f.VariantFailed, f.DeploymentChanged, f.PromotionRefused, f.AlertRaised,
                f.AlertResolved, f.WorkProgressed, f.OrderAccepted, f.OrderRefused, f.SuspensionJudged,
            ),
            owns=("servers", "routes"),
            reads_records=("attachments",),
            calls=("triton", "agent"),
        ),
        ServiceContract(
            "benchmarker",
            consumes=(f.VariantStaged,),
            emits=(f.VariantBenchmarked, f.VariantFailed, f.WorkProgressed),
            calls=("triton",),
        ),
        ServiceContract(
            "evaluator",
            consumes=(f.VariantStaged,),
            emits=(f.VariantEvaluated, f.VersionEvaluated, f.VariantFailed, f.WorkProgressed),
            reads_records=("routes",),
            looks_up=(EVENTS,),
            calls=("triton",),
        ),
        ServiceContract(
            "monitor",
            consumes=(f.InferenceBatch, f.DeploymentChanged, f.ReleaseOpened, f.VersionEvaluated),
            emits=(
                f.WindowSummarised, f.AlertRaised, f.AlertUpdated, f.AlertResolved, f.CanaryAssessed, f.ShadowAssessed,
                f.SuspensionJudged,
            ),
            owns=("alerts",),
            reads_records=("routes", "staging-routes"),
            staging=(f.InferenceBatch, f.DeploymentChanged),
            measures=(TELEMETRY,),
        ),
        ServiceContract(
            "rollback-controller",
            consumes=(
                f.ReleaseOpened, f.AlertRaised, f.AlertUpdated, f.CanaryAssessed, f.ReleaseFinished, f.InferenceBatch,
                f.RollbackOrdered, f.SuspensionDecided, f.DrillOrdered, f.VariantStaged,
                f.ShadowAssessed, f.SuspensionJudged,
            ),
            emits=(
                f.RollbackStarted, f.DeploymentChanged, f.RollbackCompleted, f.RollbackFailed, f.RehearsalCompleted,
                f.OrderRefused, f.OrderAccepted,
            ),
            owns=("rollbacks", "drills", "staging-routes"),
            edits=("routes",),
            staging=(f.AlertRaised, f.AlertUpdated, f.InferenceBatch),
            measures=(TELEMETRY,),
            calls=("triton", "gateway"),
        ),
        ServiceContract(
            "notifier",
            consumes=(f.AlertRaised, f.AlertUpdated, f.AlertResolved, f.RollbackFailed),
            owns=("notifications",),
            calls=("outside",),
        ),
        ServiceContract(
            "gateway",
            emits=(f.InferenceBatch,),
            owns=("api-usage",),
            reads_records=("routes", "staging-routes", "drills", "api-keys", "servers"),
            reports=(f"{TRAFFIC_PREFIX}.*", f"{DEATHS_PREFIX}.*"),
            hears=(f"{DEATHS_PREFIX}.*",),
            calls=("triton",),
        ),
        ServiceContract("mirror", reads_records=("routes", "mirrors"), looks_up=(EVENTS,), calls=("outside",)),
        ServiceContract(
            "console",
            reads_records=("routes", "servers"),
            follows=(INBOX, ORDERS, EVENTS),
            hears=(f"{TRAFFIC_PREFIX}.*", f"{RUNNING_PREFIX}.*", f"{f.WorkProgressed.TYPE}.*.*"),
            calls=("gateway", "outside"),
        ),
    )
}  # fmt: skip
OPTIONAL: Final = ("mirror", "notifier")
"""Services that run only if configured."""


def stream_of(fact: type[Fact]) -> Stream | None:
    """Return the stream that stores a fact; None if none does."""
    if fact in NOT_STORED:
        return None
    if fact in FROM_OUTSIDE:
        return INBOX if fact is f.CheckpointReady else ORDERS
    return TELEMETRY if fact is f.InferenceBatch else EVENTS


def stream_subjects(stream: Stream) -> list[str]:
    """Return the subjects of a stream.

    Inbox and orders store all versions of external events: unknown versions are rejected with a fact. They are separate
    streams so that announcements cannot block orders.
    """
    if stream == DEADLETTER:
        return [f"{DEADLETTER_PREFIX}.>"]
    names = [fact.TYPE for fact in f.FACTS.values() if stream_of(fact) == stream]
    if stream in (INBOX, ORDERS):
        return sorted(name.rsplit(".", 1)[0] + ".>" for name in names)
    staging = [name.replace("slipway.", "slipway.staging.", 1) for name in names]
    return sorted(f"{name}.*.*" for name in names + staging)


def dead_letter_subject(service: str, subject: str) -> str:
    """Return the subject of a service's dead letter, with the model of the message, or `_` without a model."""
    tokens = subject.split(".")
    model = tokens[-2] if len(tokens) > 2 else ""
    return f"{DEADLETTER_PREFIX}.{model if re.fullmatch(MODEL_NAME_PATTERN, model) else '_'}.{service}"


def emitters(fact: type[Fact]) -> tuple[str, ...]:
    """Return the services that may publish a fact; empty for external facts."""
    if fact is f.WorkAbandoned:
        return tuple(service.name for service in SERVICES.values() if service.consumes)
    return tuple(service.name for service in SERVICES.values() if fact in service.emits)


def durable_name(service: str, fact: type[Fact], environment: Environment = "production") -> str:
    """Return the name of a service's durable consumer for a fact."""
    prefix = "staging-" if environment == "staging" else ""
    return f"{service}__{prefix}{fact.TYPE.removeprefix('slipway.').replace('.', '-')}"


def filter_subject(fact: type[Fact], environment: Environment = "production") -> str:
    """Return the subject filter of a fact's consumers; for external facts it matches all versions."""
    if environment == "staging":
        return f"{fact.TYPE.replace('slipway.', 'slipway.staging.', 1)}.*.*"
    return fact.TYPE.rsplit(".", 1)[0] + ".>" if fact in FROM_OUTSIDE else f"{fact.TYPE}.*.*"
