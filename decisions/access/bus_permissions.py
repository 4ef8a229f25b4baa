"""Permitted subjects of each identity, derived from the declarations of services and roles."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contracts.envelope import nats_subject
from contracts.facts import FACTS, Fact, WorkAbandoned, WorkProgressed
from contracts.facts.ops import RECORDS
from contracts.identities import PROVISIONER, PUBLISHED_BY, Identity, Role, inbox_prefix
from contracts.running import RUNNING_PREFIX
from contracts.services import (
    DEADLETTER,
    DEADLETTER_PREFIX,
    EVENTS,
    FROM_OUTSIDE,
    INBOX,
    ORDERS,
    RECORD_KEYS,
    SERVICES,
    TELEMETRY,
    ServiceContract,
    Stream,
    durable_name,
    stream_of,
)
from contracts.storage.uploads import UPLOADS

BUCKETS: Final = tuple(sorted({bucket for service in SERVICES.values() for bucket in service.owns}))
"""All key-value buckets; each is owned by a service."""
STREAMS: Final[tuple[Stream, ...]] = (INBOX, ORDERS, EVENTS, DEADLETTER, TELEMETRY)
LIVE: Final = f"{WorkProgressed.TYPE}.*.*"
"""Subjects of live progress. Besides these, inboxes and `hears` of services, no identity may subscribe.

A consumer can deliver stored messages to any subject with a subscriber. So no identity may subscribe to a stored
subject, and subscribers to other subjects must compare them with each message's own subject.
"""
OWN_PERMISSIONS: Final = "$SYS.REQ.USER.INFO"
"""Request for the own permissions; commands derive the readable models from the answer."""
_VERSIONS: Final = sorted({fact.TYPE.rpartition(".")[2] for fact in FACTS.values()})
"""Versions of events. Patterns name one: `slipway.*.*.*.v1.>` would match staging events with a model `v1`."""
_ORDERED: Final = frozenset(bucket for bucket, _ in RECORDS.values())
"""Buckets that only the registry writes, by orders; administrators may write all others for repairs."""
_CREATE: Final = "$JS.API.CONSUMER.CREATE"
_EVERY_MESSAGE: Final = f"$JS.API.STREAM.MSG.GET.{EVENTS}"
FOLLOWING: Final = 8
READING: Final = 3
"""Maximum consumers of a user: of a stream, and of a stream that it reads for a moment only.

Their names begin with the user's name, so that one user cannot exhaust a stream's consumers (`topology.CONSUMERS`).
Administrators may use any name.
"""


@dataclass(frozen=True)
class Permissions:
    """Subjects that an identity may use; denied subjects take precedence."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deny_publish: tuple[str, ...] = ()
    answers: bool = False
    """Whether it may answer requests, once on the subject that each names."""


def permissions_of(identity: Identity) -> Permissions:
    """Return the permissions of a service, the provisioner, or a user."""
    if identity.name in SERVICES:
        return service_permissions(SERVICES[identity.name])
    if identity.name == PROVISIONER:
        return provisioner_permissions()
    return user_permissions(identity)


def subjects(fact: type[Fact], sender: str) -> list[str]:
    """Return a sender's subjects of a fact for all models: production, and staging unless it is external."""
    production = nats_subject(fact.TYPE, "*", sender)
    return [production] if fact in FROM_OUTSIDE else [production, nats_subject(fact.TYPE, "*", sender, "staging")]


def service_permissions(service: ServiceContract) -> Permissions:
    """Return the permissions of a service."""
    emitted: tuple[type[Fact], ...] = (*service.emits, WorkAbandoned) if service.consumes else service.emits
    publish = [subject for fact in emitted for subject in subjects(fact, service.name)]
    for fact, environment in service.reads:
        stream, durable = stream_of(fact), durable_name(service.name, fact, environment)
        publish += [
            f"$JS.API.CONSUMER.INFO.{stream}.{durable}",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}",
            f"$JS.ACK.{stream}.{durable}.>",
        ]
    if service.consumes:  # without a model: from a version before the subject named it
        publish += [f"{DEADLETTER_PREFIX}.{service.name}", f"{DEADLETTER_PREFIX}.*.{service.name}"]
    publish += [f"$JS.API.STREAM.MSG.GET.{stream}" for stream in _looked_up(service)]
    publish += [f"$JS.API.STREAM.INFO.{stream}" for stream in service.measures]
    written, read = (*service.owns, *service.edits), service.reads_records
    publish += [f"$KV.{bucket}.>" for bucket in written]
    publish += [f"$JS.API.STREAM.PURGE.KV_{bucket}" for bucket in service.forgets]
    publish += _reading_records(sorted({*written, *read}))
    publish += [*service.reports, f"{RUNNING_PREFIX}.{service.name}"]
    asked = (exchange.filter for exchange in service.answers)
    subscribe = (f"{inbox_prefix(service.name)}.>", *service.hears, *asked)
    if not service.follows:
        return Permissions(tuple(publish), subscribe, answers=bool(service.answers))
    publish += _reading_streams(service.follows)
    return Permissions(tuple(publish), subscribe, tuple(_consumers_of_services(service.follows)))


def provisioner_permissions() -> Permissions:
    """Return the permissions of the provisioner: to create and change streams, consumers and buckets."""
    names = [*STREAMS, *(f"KV_{bucket}" for bucket in BUCKETS)]
    publish = ["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"]
    publish += [f"$JS.API.STREAM.{verb}.{name}" for name in names for verb in ("INFO", "CREATE", "UPDATE")]
    for service in SERVICES.values():
        for fact, environment in service.reads:
            stream, durable = stream_of(fact), durable_name(service.name, fact, environment)
            publish += [
                f"$JS.API.CONSUMER.INFO.{stream}.{durable}",
                f"$JS.API.CONSUMER.CREATE.{stream}.{durable}.>",
                f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{durable}",
            ]
    return Permissions(tuple(publish), (f"{inbox_prefix(PROVISIONER)}.>",))


def user_permissions(identity: Identity) -> Permissions:
    """Return the permissions of a user, the union of its roles."""
    own = f"{inbox_prefix(identity.name)}.>"
    if "administrator" in identity.roles:
        facts = [subject for fact in FACTS.values() for subject in subjects(fact, identity.name)]
        repaired = [f"$KV.{bucket}.>" for bucket in BUCKETS if bucket not in _ORDERED]
        everything = (nats_subject(UPLOADS, "*", identity.name), "$JS.>", *repaired, OWN_PERMISSIONS)
        return Permissions((*facts, *everything), (own, "_INBOX.>", LIVE))  # `_INBOX` for the plain NATS command line
    publish = [subject for role in identity.roles for subject in _orders(role, identity)]
    if set(identity.roles) <= {"publisher"}:
        return Permissions(tuple(publish), (own,))
    if identity.team is not None:
        live = [nats_subject(WorkProgressed.TYPE, model, "*") for model in identity.models]
        return Permissions((*publish, *_reading_models(identity.name, identity.models)), (own, *live))
    return Permissions((*publish, *_reading_all(identity.name)), (own, LIVE))


def subjects_about(stream: str, model: str) -> list[str]:
    """Return the subjects of a stream about one model; each needs a consumer."""
    if stream == DEADLETTER:
        return [f"{DEADLETTER_PREFIX}.{model}.*"]
    environments = ("slipway",) if stream in (INBOX, ORDERS) else ("slipway", "slipway.staging")
    return [f"{environment}.*.*.{version}.{model}.*" for version in _VERSIONS for environment in environments]


def readable_models(allowed: Iterable[str]) -> tuple[str, ...] | None:
    """Return the models whose events an identity may consume; None for all."""
    patterns = tuple(allowed)
    if any(_covers(pattern, _EVERY_MESSAGE) for pattern in patterns):
        return None
    before, after = subjects_about(EVENTS, "{}")[0].split("{}")
    filters = [pattern.partition(f".{before}")[2] for pattern in patterns if pattern.startswith(f"{_CREATE}.{EVENTS}.")]
    return tuple(dict.fromkeys(each.removesuffix(after) for each in filters if each))


def consumer_names(allowed: Iterable[str], stream: str) -> tuple[str, ...] | None:
    """Return the permitted consumer names of a stream; None if any name or none is permitted."""
    before = f"{_CREATE}.{stream}."
    names = dict.fromkeys(each.removeprefix(before).split(".")[0] for each in allowed if each.startswith(before))
    return None if not names or {"*", ">"} & set(names) else tuple(names)


def _covers(pattern: str, subject: str) -> bool:
    """Return whether a subject pattern covers another pattern."""
    parts, others = pattern.split("."), subject.split(".")
    for part, other in zip(parts, others, strict=False):
        if part == ">":
            return True
        if other == ">" or part not in ("*", other):
            return False
    return len(parts) == len(others)


def _orders(role: Role, identity: Identity) -> list[str]:
    limited = identity.team is not None or (role == "publisher" and identity.models)
    named = identity.models if limited else ("*",)
    orders = [nats_subject(fact.TYPE, model, identity.name) for fact in PUBLISHED_BY[role] for model in named]
    uploads = [nats_subject(UPLOADS, model, identity.name) for model in named] if role == "publisher" else []
    return orders + uploads


def _looked_up(service: ServiceContract) -> list[str]:
    """Return the streams that a service reads without a consumer: also those it publishes to, to verify that it did."""
    published = {stream_of(fact) for fact in service.emits} - {None}
    if service.consumes:
        published.add(EVENTS)
    return sorted(str(stream) for stream in {*published, *service.looks_up})


def _reading_models(name: str, models: Iterable[str]) -> list[str]:
    """Return the request subjects that read streams and records of these models only.

    They end with the subject that is read: the filter of a consumer, or the subject of a last message. Requests that
    name messages in their body are left out: a message by number, subjects of a stream, consumers without a filter.
    """
    records = {f"KV_{bucket}": keys for bucket, keys in RECORD_KEYS.items() if keys}
    last = {stream: _keys_about(stream, keys, models) for stream, keys in records.items()}
    listed = {  # the other keys are complete
        stream: _keys_about(stream, others, models)
        for stream, keys in records.items()
        if (others := [key for key in keys if not key.endswith("{model}")])
    }
    for read in (INBOX, ORDERS, EVENTS, DEADLETTER):
        listed[read] = [subject for model in models for subject in subjects_about(read, model)]
    last[EVENTS] = listed[EVENTS]
    requests = ["$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.INFO", OWN_PERMISSIONS]
    requests += [f"$JS.API.DIRECT.GET.{stream}.{subject}" for stream, named in last.items() for subject in named]
    for stream, filters in listed.items():
        requests += [f"$JS.API.CONSUMER.INFO.{stream}.*"]
        for consumer in _own_consumers(name, READING):
            requests += [f"$JS.API.CONSUMER.{verb}.{stream}.{consumer}" for verb in ("MSG.NEXT", "DELETE")]
            requests += [f"{_CREATE}.{stream}.{consumer}.{subject}" for subject in filters]
    return requests


def _own_consumers(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(count)]


def _reading_all(name: str) -> list[str]:
    """Return the request subjects that read all streams and records, with the user's consumer names."""
    requests = ["$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.INFO", OWN_PERMISSIONS]
    verbs = ("STREAM.INFO.{0}", "STREAM.MSG.GET.{0}", "DIRECT.GET.{0}", "DIRECT.GET.{0}.>", "CONSUMER.INFO.{0}.*")
    counts = dict.fromkeys(STREAMS, FOLLOWING) | {f"KV_{bucket}": READING for bucket in BUCKETS}
    for stream, count in counts.items():
        requests += [f"$JS.API.{verb.format(stream)}" for verb in verbs]
        for consumer in _own_consumers(name, count):
            requests += [f"{_CREATE}.{stream}.{consumer}", f"{_CREATE}.{stream}.{consumer}.>"]
            requests += [f"$JS.API.CONSUMER.{verb}.{stream}.{consumer}" for verb in ("MSG.NEXT", "DELETE")]
    return requests


def _keys_about(stream: str, patterns: Iterable[str], models: Iterable[str]) -> list[str]:
    keys = dict.fromkeys(pattern.format(model=model) for pattern in patterns for model in models)
    return [f"${stream.replace('_', '.', 1)}.{key}" for key in keys]


def _reading_records(buckets: Iterable[str]) -> list[str]:
    verbs = ("STREAM.INFO.{0}", "STREAM.MSG.GET.{0}", "DIRECT.GET.{0}", "DIRECT.GET.{0}.>")
    watches = ("CONSUMER.CREATE.{0}", "CONSUMER.CREATE.{0}.>", "CONSUMER.DELETE.{0}.*", "CONSUMER.INFO.{0}.*")
    names = [f"KV_{bucket}" for bucket in buckets]
    requests = [f"$JS.API.{verb.format(name)}" for name in names for verb in (*verbs, *watches)]
    return requests + [f"$JS.FC.{name}.>" for name in names]


def _reading_streams(streams: tuple[Stream, ...]) -> list[str]:
    verbs = ("STREAM.INFO.{0}", "STREAM.MSG.GET.{0}")
    consumers = (
        "CONSUMER.CREATE.{0}.>",
        "CONSUMER.CREATE.{0}",
        "CONSUMER.MSG.NEXT.{0}.*",
        "CONSUMER.INFO.{0}.*",
        "CONSUMER.DELETE.{0}.*",
    )
    requests = [f"$JS.API.{verb.format(name)}" for name in streams for verb in (*verbs, *consumers)]
    return ["$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.INFO", OWN_PERMISSIONS, *requests]


def _consumers_of_services(streams: tuple[Stream, ...]) -> list[str]:
    """Return the request subjects that would read from, change or delete services' consumers."""
    denied = []
    for service in SERVICES.values():
        for fact, environment in service.reads:
            if stream_of(fact) not in streams:
                continue
            where = f"{stream_of(fact)}.{durable_name(service.name, fact, environment)}"
            denied += [
                f"$JS.API.CONSUMER.CREATE.{where}.>",
                f"$JS.API.CONSUMER.CREATE.{where}",
                f"$JS.API.CONSUMER.MSG.NEXT.{where}",
                f"$JS.API.CONSUMER.DELETE.{where}",
            ]
    return denied
