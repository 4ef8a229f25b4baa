"""What each identity may do on the bus, by the declarations of services and roles, and what a server refuses of it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import nats.errors
from nats.aio.client import Client

from contracts.envelope import nats_subject
from contracts.facts import FACTS, CheckpointReady, WorkAbandoned, WorkProgressed
from contracts.facts.ops import RECORDS
from contracts.identities import PROVISIONER, PUBLISHED_BY, Role
from contracts.running import RUNNING_PREFIX
from contracts.services import (
    DEADLETTER,
    DEADLETTER_PREFIX,
    EVENTS,
    FROM_OUTSIDE,
    INBOX,
    ORDERS,
    SERVICES,
    TELEMETRY,
    durable_name,
    stream_of,
)
from contracts.storage.uploads import UPLOADS
from deploy.identity.key_folder import KeyFolder
from shared.messaging import topology

Connect = Callable[..., Awaitable[Client]]
"""Connects as an identity; takes the options of the client."""
USERS: dict[str, tuple[Role, ...]] = {
    "paula": ("publisher",),
    "oscar": ("operator",),
    "anna": ("approver",),
    "victor": ("viewer",),
    "both": ("approver", "operator"),
    "adam": ("administrator",),
    "mallory": ("publisher", "viewer"),
}
TEAMS: dict[str, dict[str, tuple[tuple[Role, ...], tuple[str, ...]]]] = {
    "shop": {"sam": (("publisher", "operator", "approver"), ()), "sue": (("publisher",), ("shop-faq",))},
    "bank": {"ben": (("publisher", "operator", "approver"), ()), "bea": (("operator",), ())},
}
"""By team: its members, with their roles, and the models that a publisher is limited to."""
ORDERED = {bucket for bucket, _ in RECORDS.values()}
"""Buckets that not even an administrator writes: the registry does, as administrators order."""
STREAMS = (INBOX, ORDERS, EVENTS, DEADLETTER, TELEMETRY)
CONSUMERS = [
    (service.name, str(stream_of(fact)), durable_name(service.name, fact, where))
    for service in SERVICES.values()
    for fact, where in service.reads
]
MEMBERS = [name for members in TEAMS.values() for name in members]


def add_users(folder: KeyFolder) -> None:
    """Add all users and teams of the matrix to a folder of keys."""
    for name, roles in USERS.items():
        folder.add(name, roles)
    for team, members in TEAMS.items():
        folder.set_team(team, [f"{team}-bot", f"{team}-faq"])
        for name, (roles, models) in members.items():
            folder.add(name, roles, models, team)


def facts_of(name):
    """The types of facts that an identity publishes."""
    if name in SERVICES:
        service = SERVICES[name]
        return {*service.emits, *([WorkAbandoned] if service.consumes else [])}
    return {fact for role in USERS.get(name, ()) for fact in PUBLISHED_BY[role]}


def expected(name):
    """Each subject that is tried, and whether it is allowed."""
    everything = "administrator" in USERS.get(name, ())
    reads_all = bool(set(USERS.get(name, ())) - {"publisher"})
    service = SERVICES.get(name)
    tried = {}
    for fact in FACTS.values():
        environments = [fact.TYPE]
        if fact not in FROM_OUTSIDE:
            environments.append(fact.TYPE.replace("slipway.", "slipway.staging.", 1))
        for type_ in environments:
            tried[f"{type_}.support-bot"] = False  # without a sender
            for sender in (name, ANOTHER[name]):
                may = everything or fact in facts_of(name)
                tried[f"{type_}.support-bot.{sender}"] = may and sender == name
    uploads = everything or "publisher" in USERS.get(name, ())
    tried |= {f"{UPLOADS}.support-bot.{name}": uploads, f"{UPLOADS}.support-bot.{ANOTHER[name]}": False}
    for other in SERVICES:
        gives_up = other == name and bool(SERVICES[other].consumes)
        tried |= {f"{DEADLETTER_PREFIX}.{subject}": gives_up for subject in (other, f"support-bot.{other}")}
    for owner, stream, durable in CONSUMERS:
        for verb in ("INFO", "MSG.NEXT"):
            reads = reads_all or name == PROVISIONER or (service is not None and stream in service.follows)
            allowed = owner == name or (verb == "INFO" and reads)
            tried[f"$JS.API.CONSUMER.{verb}.{stream}.{durable}"] = everything or allowed
        tried[f"$JS.ACK.{stream}.{durable}.1.1.1.1.1"] = everything or owner == name
        tried[f"$JS.API.CONSUMER.CREATE.{stream}.{durable}.slipway.x"] = everything or name == PROVISIONER
        tried[f"$JS.API.CONSUMER.DELETE.{stream}.{durable}"] = everything
        tried[f"$JS.API.CONSUMER.PAUSE.{stream}.{durable}"] = everything
    for bucket in topology.BUCKETS:
        writes = service is not None and bucket in (*service.owns, *service.edits)
        reads = writes or reads_all or (service is not None and bucket in service.reads_records)
        tried[f"$KV.{bucket}.support-bot"] = writes or (everything and bucket not in ORDERED)
        tried[f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.support-bot"] = everything or reads
        any_name = everything or (reads and not reads_all)
        tried[f"$JS.API.CONSUMER.CREATE.KV_{bucket}"] = any_name
        tried |= expected_consumers(name, f"KV_{bucket}", 3 if reads_all else 0, any_name=any_name)
    for stream in [*STREAMS, *(f"KV_{bucket}" for bucket in topology.BUCKETS)]:
        for verb in ("CREATE", "UPDATE"):
            tried[f"$JS.API.STREAM.{verb}.{stream}"] = everything or name == PROVISIONER
        for verb in ("PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN"):
            forgets = service is not None and verb == "PURGE" and stream.removeprefix("KV_") in service.forgets
            tried[f"$JS.API.STREAM.{verb}.{stream}"] = everything or forgets
    for stream in STREAMS:
        publishes = {stream_of(fact) for fact in facts_of(name)} if service is not None else set()
        looks_up = stream in publishes or (service is not None and stream in (*service.looks_up, *service.follows))
        tried[f"$JS.API.STREAM.MSG.GET.{stream}"] = everything or reads_all or looks_up
        follows = service is not None and stream in service.follows
        tried |= expected_consumers(name, stream, 8 if reads_all else 0, any_name=everything or follows)
        tried |= {
            f"$JS.API.CONSUMER.{verb}.{stream}.{reader}-0": everything or follows or (reads_all and reader == name)
            for verb in ("MSG.NEXT", "DELETE")
            for reader in (name, ANOTHER[name])
        }
    tried |= {
        subject.replace("*", "0123456789ab"): owner == name
        for owner, other in SERVICES.items()
        for subject in other.reports
    }
    tried |= {f"{RUNNING_PREFIX}.{other}": other == name for other in SERVICES}
    tried["$JS.API.STREAM.CREATE.another"] = everything
    tried["anything.else"] = False
    return tried


def expected_consumers(name, stream, count, *, any_name):
    """Each request for a consumer that is tried: of another name, of too many of one's own, and of one's own."""
    own = {f"{name}-{number}": number < count for number in range(count + 2)}
    tried = own | {"x": False, f"{ANOTHER[name]}-0": False}
    return {
        f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}{ending}": any_name or allowed
        for consumer, allowed in tried.items()
        for ending in ("", ".slipway.>")
    }


REFUSED = (nats.errors.Error, ConnectionResetError)
"""A server that knows no such key says so and closes the connection, sometimes before the client has read it."""
HARMFUL = ("PURGE", "MSG.DELETE", "RESTORE", "SNAPSHOT", "STEPDOWN", "CONSUMER.DELETE", "CONSUMER.PAUSE")
IDENTITIES = (*SERVICES, PROVISIONER, *USERS)
ANOTHER = {name: IDENTITIES[number - 1] for number, name in enumerate(IDENTITIES)}
"""By identity: one whose name it tries to publish under."""


def expected_of_member(name):
    """The models of a member, and each subject that is tried for it, with whether it is allowed."""
    team, (roles, models) = next((team, members[name]) for team, members in TEAMS.items() if name in members)
    own = set(models) or {f"{team}-bot", f"{team}-faq"}
    foreign = {f"{other}-{kind}" for other in TEAMS for kind in ("bot", "faq")} - own
    published = {fact for role in roles for fact in PUBLISHED_BY[role]}
    tried = {
        nats_subject(fact.TYPE, model, sender, environment): fact in published
        and model in own
        and (sender, environment) == (name, "production")
        for fact in FACTS.values()
        for model in (*own, *foreign, "support-bot")
        for sender in (name, "sam" if name != "sam" else "ben")
        for environment in ("production", *(() if fact in FROM_OUTSIDE else ("staging",)))
    }
    for model in (*own, *foreign, "support-bot"):
        tried[nats_subject(UPLOADS, model, name)] = "publisher" in roles and model in own
    return own, tried


def subscribed_by(service):
    """What a service subscribes to without a stream."""
    return (*service.hears, *(each.filter for each in service.answers))


def expected_reads(name):
    """Each subject that an identity subscribes to, and whether it is allowed."""
    other = next(identity for identity in IDENTITIES if identity != name)
    reads_all = bool(set(USERS.get(name, ())) - {"publisher"})
    foreign = (f"_INBOX_{other}.>", "slipway.>", "$KV.>", ">", "$JS.>", f"{CheckpointReady.TYPE}.*.*")
    tried = dict.fromkeys(foreign, False)
    own = subscribed_by(SERVICES[name]) if name in SERVICES else ()
    subscribed = [subject for service in SERVICES.values() for subject in subscribed_by(service)]
    tried |= {subject: subject in own for subject in subscribed}
    progress = f"{WorkProgressed.TYPE}.*.*"
    follows = progress in own if name in SERVICES else reads_all
    return {**tried, "_INBOX.>": name == "adam", progress: follows, f"_INBOX_{name}.>": True}


async def refused_of(connect: Connect, tried: Mapping[str, bool]) -> set[str]:
    """Return the subjects that a server refuses to an identity; what it may do is done, but for what does harm."""
    refused: set[str] = set()

    async def note(error):
        text = str(error)
        if "permissions violation for publish" in text.lower():
            refused.add(text.split('"')[1])

    client = await connect(error_cb=note)
    try:
        for subject, allowed in tried.items():
            if allowed and any(verb in subject for verb in HARMFUL):
                continue  # an administrator may: it would really be done
            await client.publish(subject, b"")
        await client.flush(timeout=10)
        await _reported(refused, tried)
    finally:
        await client.close()
    return refused  # the client reports errors in lower case


async def refused_reads_of(connect: Connect, tried: Mapping[str, bool]) -> set[str]:
    """Return the subjects that a server refuses an identity to subscribe to."""
    refused: set[str] = set()

    async def note(error):
        text = str(error)
        if "permissions violation for subscription" in text.lower():
            refused.add(text.split('"')[1])

    client = await connect(error_cb=note)
    for subject in tried:
        await client.subscribe(subject)
    await client.flush(timeout=5)
    await _reported(refused, tried)
    await client.close()
    return refused


async def _reported(refused: set[str], tried: Mapping[str, bool]) -> None:
    """Wait until as many subjects are refused as are to be, or for 5 s: the client reports what it is told later."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            while len(refused) < sum(not allowed for allowed in tried.values()):
                await asyncio.sleep(0.02)
