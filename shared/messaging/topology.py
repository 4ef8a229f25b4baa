"""Declares the streams, consumers and buckets with their configuration."""

from collections.abc import Mapping

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from contracts.facts import CheckpointReady, Fact
from contracts.limits import EVENT_BYTES
from contracts.services import (
    DEADLETTER,
    EVENTS,
    INBOX,
    ORDERS,
    SERVICES,
    TELEMETRY,
    Stream,
    durable_name,
    filter_subject,
    stream_of,
    stream_subjects,
)
from contracts.vocabulary import Environment

ACK_WAIT_S = 12.0
HEARTBEAT_S = ACK_WAIT_S / 4
DEDUPE_WINDOW_S = 120.0
BUCKETS = (
    "releases",
    "policies",
    "servers",
    "routes",
    "staging-routes",
    "alerts",
    "rollbacks",
    "drills",
    "api-keys",
    "api-usage",
    "audit",
    "notifications",
    "mirrors",
    "attachments",
)
USAGE_DAYS = 100.0
"""Days that an account's usage is kept after its last request: this month and the two before."""
_MEBIBYTE = 1024 * 1024
_BUCKET_BYTES = {
    "releases": 2048 * _MEBIBYTE,
    "alerts": 2048 * _MEBIBYTE,
    "rollbacks": 512 * _MEBIBYTE,
    "mirrors": 8 * _MEBIBYTE,
    "attachments": 8 * _MEBIBYTE,
}
LIMITS: Mapping[str, int] = {
    INBOX: 256 * _MEBIBYTE,
    ORDERS: 256 * _MEBIBYTE,
    EVENTS: 8192 * _MEBIBYTE,
    DEADLETTER: 1024 * _MEBIBYTE,
    TELEMETRY: 64 * _MEBIBYTE,
    **{f"KV_{name}": _BUCKET_BYTES.get(name, 128 * _MEBIBYTE) for name in BUCKETS},
}
"""Size limit of each stream in bytes; a bucket is the stream `KV_<bucket>`.

A server with a full store refuses all writes, also of routes. So every stream has a limit, and the server's
`max_file_store` is at least `file_bytes`.
"""
KEEPS_THE_NEWEST = (ORDERS, EVENTS, DEADLETTER)
"""Streams on disk that drop their oldest messages when full, so that publication is never blocked.

Orders expire within a day, and releases and versions keep their own records.
"""
EVENT_DAYS = 90.0
"""Default days that announcements, orders and events are kept."""
CONSUMERS = 1000
"""Default limit of consumers of a stream since NATS 2.15 (`default_max_consumers`)."""
FROM_OUTSIDE_BYTES = EVENT_BYTES + 16 * 1024
"""Largest message from outside, with headers; up to this size, one above `EVENT_BYTES` gets an answer."""


def file_bytes(limits: Mapping[str, int] = LIMITS) -> int:
    """Return the maximum bytes of the server's file store for all streams and buckets."""
    return sum(limit for name, limit in limits.items() if name != TELEMETRY)


def streams(
    *,
    replicas: int = 1,
    dedupe_window_s: float = DEDUPE_WINDOW_S,
    limits: Mapping[str, int] = LIMITS,
    event_days: float = EVENT_DAYS,
) -> list[StreamConfig]:
    """Return the configurations of the five streams.

    Messages on disk expire after `event_days`, except dead letters; telemetry is kept in memory.
    """
    kept = [
        StreamConfig(
            name=name,
            subjects=stream_subjects(name),
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=dedupe_window_s,
            max_age=0.0 if name == DEADLETTER else event_days * 86400.0,
            discard=DiscardPolicy.OLD if name in KEEPS_THE_NEWEST else DiscardPolicy.NEW,
            max_bytes=limits[name],
            allow_direct=True,
            max_msg_size=FROM_OUTSIDE_BYTES if name in (INBOX, ORDERS) else -1,
        )
        for name in (INBOX, ORDERS, EVENTS, DEADLETTER)
    ]
    telemetry = StreamConfig(
        name=TELEMETRY,
        subjects=stream_subjects(TELEMETRY),
        storage=StorageType.MEMORY,
        num_replicas=replicas,
        max_bytes=limits[TELEMETRY],
        max_age=3600.0,
        discard=DiscardPolicy.OLD,
        duplicate_window=dedupe_window_s,
    )
    return [*kept, telemetry]


def consumer(service: str, fact: type[Fact], environment: Environment = "production") -> tuple[Stream, ConsumerConfig]:
    """Return a service's durable consumer of a fact.

    Checkpoints are admitted one at a time, in stream order. Other consumers have no limit of unacknowledged messages:
    messages returned with a delay count as unacknowledged, so one model's would block all.
    """
    stream = stream_of(fact)
    if stream is None:
        raise ValueError(f"{fact.TYPE} is not stored, so nothing can consume it durably")
    config = ConsumerConfig(
        durable_name=durable_name(service, fact, environment),
        filter_subject=filter_subject(fact, environment),
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=ACK_WAIT_S,
        max_deliver=-1,
        max_ack_pending=1 if fact is CheckpointReady else -1,
    )
    return stream, config


def consumer_limit(stream: StreamConfig) -> int:
    """Return a stream's limit of consumers: its own, or the server's default (`CONSUMERS`)."""
    own = stream.max_consumers or 0
    return own if own > 0 else CONSUMERS


def consumers() -> list[tuple[Stream, ConsumerConfig]]:
    """List every durable consumer of every service."""
    return [consumer(service.name, fact, where) for service in SERVICES.values() for fact, where in service.reads]


def buckets(*, replicas: int = 1, limits: Mapping[str, int] = LIMITS) -> list[KeyValueConfig]:
    """List the key-value buckets."""
    return [
        KeyValueConfig(
            bucket=name,
            history=16,
            ttl=USAGE_DAYS * 86400.0 if name == "api-usage" else None,
            replicas=replicas,
            max_bytes=limits[f"KV_{name}"],
            direct=True,
        )
        for name in BUCKETS
    ]
