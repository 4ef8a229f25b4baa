"""Which subjects of the bus each identity may publish and subscribe to, from what services and roles declare."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contracts.envelope import nats_subject
from contracts.facts import FACTS, Fact, WorkAbandoned, WorkProgressed
from contracts.identities import PROVISIONER, PUBLISHED_BY, Identity, Role, inbox_prefix
from contracts.services import (
    DEADLETTER,
    DEADLETTER_PREFIX,
    EVENTS,
    FROM_OUTSIDE,
    INBOX,
    ORDERS,
    SERVICES,
    TELEMETRY,
    ServiceContract,
    Stream,
    durable_name,
    stream_of,
)

BUCKETS: Final = tuple(
    sorted({bucket for service in SERVICES.values() for bucket in service.owns} | {"policies", "api-keys"})
)
"""Every key-value bucket. `policies` and `api-keys` belong to no service: administrators write them."""
STREAMS: Final[tuple[Stream, ...]] = (INBOX, ORDERS, EVENTS, DEADLETTER, TELEMETRY)
LIVE: Final = f"{WorkProgressed.TYPE}.*.*"
"""Progress of work. Besides it, its inbox and what its replicas exchange, no identity subscribes to anything.

The server lets a consumer deliver to any subject with a subscriber: one that may create consumers can copy stored
messages there. So no identity may subscribe to a subject that a stream stores, and who subscribes to one that none
stores compares it with the subject of each message: a copy keeps its own.
"""


@dataclass(frozen=True)
class Permissions:
    """Subjects that an identity may use; what is denied is refused although it is allowed, too."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deny_publish: tuple[str, ...] = ()


def permissions_of(identity: Identity) -> Permissions:
    """Return the permissions of an identity: those of its service, of provisioning, or of its roles together."""
    if identity.name in SERVICES:
        return service_permissions(SERVICES[identity.name])
    if identity.name == PROVISIONER:
        return provisioner_permissions()
    return user_permissions(identity)


def subjects(fact: type[Fact], sender: str) -> list[str]:
    """Return a sender's subjects of a fact for all models: of production, and of staging if a service emits it."""
    production = nats_subject(fact.TYPE, "*", sender)
    return [production] if fact in FROM_OUTSIDE else [production, nats_subject(fact.TYPE, "*", sender, "staging")]


def service_permissions(service: ServiceContract) -> Permissions:
    """Return the permissions of a service: its facts, its consumers, its records."""
    emitted: tuple[type[Fact], ...] = (*service.emits, WorkAbandoned) if service.consumes else service.emits
    publish = [subject for fact in emitted for subject in subjects(fact, service.name)]
    for fact, environment in service.reads:
        stream, durable = stream_of(fact), durable_name(service.name, fact, environment)
        publish += [
            f"$JS.API.CONSUMER.INFO.{stream}.{durable}",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}",
            f"$JS.ACK.{stream}.{durable}.>",
        ]
    publish += [f"{DEADLETTER_PREFIX}.{service.name}"] if service.consumes else []
    publish += [f"$JS.API.STREAM.MSG.GET.{stream}" for stream in _looked_up(service)]
    written, read = (*service.owns, *service.edits), service.reads_records
    publish += [f"$KV.{bucket}.>" for bucket in written]
    publish += _reading_records(sorted({*written, *read}))
    publish += service.exchanges
    return Permissions(tuple(publish), (f"{inbox_prefix(service.name)}.>", *service.exchanges))


def provisioner_permissions() -> Permissions:
    """Return the permissions of provisioning: to make and change streams, consumers and buckets."""
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
    """Return the permissions of a user: those of all the roles together."""
    own = f"{inbox_prefix(identity.name)}.>"
    if "administrator" in identity.roles:
        facts = [subject for fact in FACTS.values() for subject in subjects(fact, identity.name)]
        everything = ("$JS.>", "$KV.>", "$SYS.REQ.USER.INFO")
        return Permissions((*facts, *everything), (own, "_INBOX.>", LIVE))  # `_INBOX` for the plain NATS command line
    publish = [subject for role in identity.roles for subject in _orders(role, identity)]
    if set(identity.roles) <= {"publisher"}:
        return Permissions(tuple(publish), (own,))
    publish += _reading_streams() + _reading_records(BUCKETS)
    return Permissions(tuple(publish), (own, LIVE), tuple(_consumers_of_services()))


def _orders(role: Role, identity: Identity) -> list[str]:
    limited = identity.team is not None or (role == "publisher" and identity.models)
    named = identity.models if limited else ("*",)
    return [nats_subject(fact.TYPE, model, identity.name) for fact in PUBLISHED_BY[role] for model in named]


def _looked_up(service: ServiceContract) -> list[str]:
    """Return the streams that a service reads messages of: those that it publishes to, to see whether it did."""
    published = {stream_of(fact) for fact in service.emits} - {None}
    if service.consumes:
        published.add(EVENTS)
    return sorted(str(stream) for stream in {*published, *service.looks_up})


def _reading_records(buckets: Iterable[str]) -> list[str]:
    verbs = ("STREAM.INFO.{0}", "STREAM.MSG.GET.{0}", "DIRECT.GET.{0}", "DIRECT.GET.{0}.>")
    watches = ("CONSUMER.CREATE.{0}", "CONSUMER.CREATE.{0}.>", "CONSUMER.DELETE.{0}.*", "CONSUMER.INFO.{0}.*")
    names = [f"KV_{bucket}" for bucket in buckets]
    requests = [f"$JS.API.{verb.format(name)}" for name in names for verb in (*verbs, *watches)]
    return requests + [f"$JS.FC.{name}.>" for name in names]


def _reading_streams() -> list[str]:
    verbs = ("STREAM.INFO.{0}", "STREAM.MSG.GET.{0}")
    consumers = (
        "CONSUMER.CREATE.{0}.>",
        "CONSUMER.CREATE.{0}",
        "CONSUMER.MSG.NEXT.{0}.*",
        "CONSUMER.INFO.{0}.*",
        "CONSUMER.DELETE.{0}.*",
    )
    requests = [f"$JS.API.{verb.format(name)}" for name in STREAMS for verb in (*verbs, *consumers)]
    return ["$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.INFO", *requests]


def _consumers_of_services() -> list[str]:
    """Return the requests that would take or end the messages of a service's consumer, or change it."""
    denied = []
    for service in SERVICES.values():
        for fact, environment in service.reads:
            where = f"{stream_of(fact)}.{durable_name(service.name, fact, environment)}"
            denied += [
                f"$JS.API.CONSUMER.CREATE.{where}.>",
                f"$JS.API.CONSUMER.CREATE.{where}",
                f"$JS.API.CONSUMER.MSG.NEXT.{where}",
                f"$JS.API.CONSUMER.DELETE.{where}",
            ]
    return denied
