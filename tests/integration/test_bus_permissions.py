"""The permissions of every identity on a real server: what it needs works, all else is refused.

What is expected follows from the declarations of services and roles, not from the permissions that are tested.
"""

import asyncio
import contextlib
import json
import ssl
from datetime import UTC, datetime

import nats.errors
import nats.js.errors
import pytest

from contracts.api_usage import DEMAND_PREFIX, DemandReport
from contracts.envelope import nats_subject, plain, source_of
from contracts.facts import FACTS, CheckpointReady, RollbackOrdered, WorkAbandoned, WorkProgressed
from contracts.identities import PROVISIONER, PUBLISHED_BY, Role
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
from contracts.vocabulary import canonical_json
from deploy.identity.key_folder import KeyFolder
from services.gateway.adapters.bus import read_demand
from shared.errors import Permanent
from shared.messaging import credentials, topology
from shared.messaging.events import parse_event
from shared.messaging.provision import provision
from shared.runtime.settings import Connection
from testbed import factories
from testbed.servers import NatsServer

NOW = datetime.now(UTC)
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
STREAMS = (INBOX, ORDERS, EVENTS, DEADLETTER, TELEMETRY)
CONSUMERS = [
    (service.name, str(stream_of(fact)), durable_name(service.name, fact, where))
    for service in SERVICES.values()
    for fact, where in service.reads
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1", "localhost"], NOW)
    for name, roles in USERS.items():
        folder.add(name, roles)
    folder.add("pia", ["publisher"], ["support-bot"])
    for team, members in TEAMS.items():
        folder.set_team(team, [f"{team}-bot", f"{team}-faq"])
        for name, (roles, models) in members.items():
            folder.add(name, roles, models, team)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, keys):
    server = NatsServer(tmp_path_factory.mktemp("nats"), keys)
    server.start()

    async def prepared():
        client = await connect(server, PROVISIONER)
        await provision(client.jetstream(timeout=30))
        await client.close()

    asyncio.run(prepared())
    yield server
    server.discard()


async def connect(server, name, **options):
    return await server.connect(name, **{"allow_reconnect": False, "connect_timeout": 5, **options})


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
        tried[f"$KV.{bucket}.support-bot"] = everything or writes
        tried[f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.support-bot"] = everything or reads
        tried[f"$JS.API.CONSUMER.CREATE.KV_{bucket}"] = everything or reads
        tried[f"$JS.API.CONSUMER.CREATE.KV_{bucket}.x.$KV.{bucket}.>"] = everything or reads
    for stream in [*STREAMS, *(f"KV_{bucket}" for bucket in topology.BUCKETS)]:
        for verb in ("CREATE", "UPDATE"):
            tried[f"$JS.API.STREAM.{verb}.{stream}"] = everything or name == PROVISIONER
        for verb in ("PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN"):
            tried[f"$JS.API.STREAM.{verb}.{stream}"] = everything
    tried |= {f"$JS.API.STREAM.PURGE.KV_{bucket}": True for bucket in (service.forgets if service else ())}
    for stream in STREAMS:
        publishes = {stream_of(fact) for fact in facts_of(name)} if service is not None else set()
        looks_up = stream in publishes or (service is not None and stream in (*service.looks_up, *service.follows))
        tried[f"$JS.API.STREAM.MSG.GET.{stream}"] = everything or reads_all or looks_up
    tried |= {
        subject.replace("*", "0123456789ab"): owner == name
        for owner, other in SERVICES.items()
        for subject in other.exchanges
    }
    tried["$JS.API.STREAM.CREATE.another"] = everything
    tried["anything.else"] = False
    return tried


REFUSED = (nats.errors.Error, ConnectionResetError)
"""A server that knows no such key says so and closes the connection, sometimes before the client has read it."""
HARMFUL = ("PURGE", "MSG.DELETE", "RESTORE", "SNAPSHOT", "STEPDOWN", "CONSUMER.DELETE", "CONSUMER.PAUSE")
IDENTITIES = (*SERVICES, PROVISIONER, *USERS)
ANOTHER = {name: IDENTITIES[number - 1] for number, name in enumerate(IDENTITIES)}
"""By identity: one whose name it tries to publish under."""


@pytest.mark.parametrize("name", IDENTITIES)
async def test_each_identity_may_do_what_it_needs_and_nothing_else(server, name):
    refused: set[str] = set()

    async def note(error):
        text = str(error)
        if "permissions violation for publish" in text.lower():
            refused.add(text.split('"')[1])

    client = await connect(server, name, error_cb=note)
    tried = expected(name)
    try:
        for subject, allowed in tried.items():
            if allowed and any(verb in subject for verb in HARMFUL):
                continue  # an administrator may: it would really be done
            await client.publish(subject, b"")
        await client.flush(timeout=10)
        deadline = asyncio.get_running_loop().time() + 5
        want = {subject for subject, allowed in tried.items() if not allowed}
        while len(refused) < len(want) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
    finally:
        await client.close()
    assert refused == {subject.lower() for subject in want}  # the client reports errors in lower case


@pytest.mark.parametrize("name", IDENTITIES)
async def test_each_identity_reads_its_own_inbox_only(server, name):
    refused: set[str] = set()

    async def note(error):
        text = str(error)
        if "permissions violation for subscription" in text.lower():
            refused.add(text.split('"')[1])

    other = next(identity for identity in IDENTITIES if identity != name)
    client = await connect(server, name, error_cb=note)
    not_own = {f"_INBOX_{other}.>", "slipway.>", "$KV.>", "_INBOX.>", ">", "$JS.>", f"{CheckpointReady.TYPE}.*.*"}
    exchanged = {subject for service in SERVICES.values() for subject in service.exchanges}
    not_own |= exchanged - set(SERVICES[name].exchanges if name in SERVICES else ())
    live = f"{WorkProgressed.TYPE}.*.*"
    for subject in (*not_own, *exchanged, live, f"_INBOX_{name}.>"):
        await client.subscribe(subject)
    await client.flush(timeout=5)
    await asyncio.sleep(0.1)
    await client.close()
    if name == "adam":
        not_own.discard("_INBOX.>")
    follows = SERVICES[name].sees_progress if name in SERVICES else bool(set(USERS.get(name, ())) - {"publisher"})
    assert refused == {subject.lower() for subject in not_own | (set() if follows else {live})}


async def test_a_publisher_of_named_models_announces_no_other(server):
    refused: set[str] = set()

    async def note(error):
        refused.add(str(error).split('"')[1])

    client = await connect(server, "pia", error_cb=note)
    for model in ("support-bot", "other-bot"):
        await client.publish(f"{CheckpointReady.TYPE}.{model}.pia", b"")
    await client.flush(timeout=5)
    await asyncio.sleep(0.1)
    await client.close()
    assert refused == {f"{CheckpointReady.TYPE}.other-bot.pia"}


@pytest.mark.parametrize("name", [name for members in TEAMS.values() for name in members])
async def test_a_member_publishes_orders_and_approves_for_the_models_of_its_team_only(server, name):
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
    refused: set[str] = set()

    async def note(error):
        if "permissions violation for publish" in str(error).lower():
            refused.add(str(error).split('"')[1])

    client = await connect(server, name, error_cb=note)
    want = {subject for subject, allowed in tried.items() if not allowed}
    for subject in tried:
        await client.publish(subject, b"")
    await client.flush(timeout=10)
    deadline = asyncio.get_running_loop().time() + 5
    while len(refused) < len(want) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    await client.close()
    assert refused == want
    assert {subject.split(".")[-2] for subject, allowed in tried.items() if allowed} == own


SAID = plain(factories.event(RollbackOrdered, source=source_of("oscar")))
"""An order as oscar gives it, in the hands of someone else."""


async def orders(server):
    """Return sender and body of each stored order."""
    js = (client := await connect(server, PROVISIONER)).jetstream(timeout=10)
    state = (await js.stream_info(ORDERS)).state
    await client.close()
    js = (client := await connect(server, "adam")).jetstream(timeout=10)
    stored = [await js.get_msg(ORDERS, number) for number in range(state.first_seq, state.last_seq + 1)]
    await client.close()
    return [(message.subject, message.data or b"") for message in stored]


@pytest.mark.parametrize("how", ["push consumer", "pull, answered elsewhere", "read, answered elsewhere", "headers"])
async def test_no_one_has_their_own_message_stored_under_anothers_name(server, how):
    """The server delivers and answers wherever a client wants: it must not do so as a new event of someone else."""
    theirs = nats_subject(RollbackOrdered.TYPE, "support-bot", "oscar")
    own = nats_subject(CheckpointReady.TYPE, "support-bot", "mallory")
    mallory = await connect(server, "mallory")
    js = mallory.jetstream(timeout=5)
    try:
        sequence = (await js.publish(own, canonical_json(SAID), headers={"Nats-Msg-Id": how})).seq
        before = await orders(server)
        if how == "push consumer":
            config = {"deliver_subject": theirs, "ack_policy": "none", "deliver_policy": "all", "name": "copy"}
            body = json.dumps({"stream_name": INBOX, "config": config}).encode()
            await mallory.request(f"$JS.API.CONSUMER.CREATE.{INBOX}.copy", body, timeout=5)
        elif how == "pull, answered elsewhere":
            config = {"ack_policy": "none", "deliver_policy": "all", "name": "pulled"}
            body = json.dumps({"stream_name": INBOX, "config": config}).encode()
            await mallory.request(f"$JS.API.CONSUMER.CREATE.{INBOX}.pulled", body, timeout=5)
            await mallory.publish(f"$JS.API.CONSUMER.MSG.NEXT.{INBOX}.pulled", b'{"batch": 5}', reply=theirs)
        elif how == "read, answered elsewhere":
            await mallory.publish(
                f"$JS.API.STREAM.MSG.GET.{INBOX}", json.dumps({"seq": sequence}).encode(), reply=theirs
            )
        else:
            headers = {
                "Nats-Subject": theirs,
                "Nats-Stream": ORDERS,
                "Nats-Stream-Source": f"{ORDERS} 1",
                "Nats-Rollup": "sub",
            }
            with contextlib.suppress(nats.errors.Error, nats.js.errors.Error):
                await js.publish(own, canonical_json(SAID), headers=headers)
        await mallory.flush(timeout=5)
        await asyncio.sleep(0.3)
        for subject, body in (await orders(server))[len(before) :]:
            with pytest.raises(Permanent):  # an answer of the server is no event; a copy keeps its own subject
                parse_event(RollbackOrdered, subject, body)
    finally:
        await mallory.close()


DEMAND = DemandReport(process="deadbeefdeadbeef", demand={"0123456789ab": 1e9})


@pytest.mark.parametrize("how", ["push consumer", "pull", "read"])
async def test_no_copy_of_a_message_counts_as_demand_that_a_gateway_reported(server, how):
    """Else a publisher who also reads takes the limits of every key from the gateways."""
    reports = f"{DEMAND_PREFIX}.{DEMAND.process}"
    gateway, mallory = await connect(server, "gateway"), await connect(server, "mallory")
    arrived: asyncio.Queue = asyncio.Queue()
    js = mallory.jetstream(timeout=5)
    try:
        await gateway.subscribe(f"{DEMAND_PREFIX}.*", cb=arrived.put)
        await gateway.flush(timeout=5)
        own = nats_subject(CheckpointReady.TYPE, "support-bot", "mallory")
        sequence = (await js.publish(own, DEMAND.model_dump_json().encode())).seq
        name = f"demand-{how[:4]}"
        config = {"name": name, "ack_policy": "none", "deliver_policy": "last"}
        config |= {"deliver_subject": reports} if how == "push consumer" else {}
        if how != "read":
            body = json.dumps({"stream_name": INBOX, "config": config}).encode()
            await mallory.request(f"$JS.API.CONSUMER.CREATE.{INBOX}.{name}", body, timeout=5)
        if how == "pull":
            await mallory.publish(f"$JS.API.CONSUMER.MSG.NEXT.{INBOX}.{name}", b'{"batch": 1}', reply=reports)
        if how == "read":
            await mallory.publish(
                f"$JS.API.STREAM.MSG.GET.{INBOX}", json.dumps({"seq": sequence}).encode(), reply=reports
            )
        await mallory.flush(timeout=5)
        await asyncio.sleep(0.3)
        copies = [arrived.get_nowait() for _ in range(arrived.qsize())]
        assert copies or how == "push consumer", "the server does deliver them"
        assert [read_demand(message) for message in copies] == [None] * len(copies)
        await gateway.publish(reports, DEMAND.model_dump_json().encode())
        async with asyncio.timeout(5):
            while read_demand(await arrived.get()) != DEMAND:
                continue
    finally:
        await mallory.close()
        await gateway.close()


NAMED_ELSEWHERE = {
    "durable name in the body": ("{stream}", {"durable_name": "{durable}"}),
    "name in the body": ("{stream}", {"name": "{durable}"}),
    "both in the body": ("{stream}", {"name": "{durable}", "durable_name": "{durable}"}),
    "another name in the subject": ("{stream}.mine", {"name": "{durable}"}),
    "another name in the subject, durable": ("{stream}.mine", {"durable_name": "{durable}"}),
    "another name with a filter": ("{stream}.mine.slipway.>", {"name": "{durable}", "filter_subject": "slipway.>"}),
}


@pytest.mark.parametrize("how", NAMED_ELSEWHERE)
@pytest.mark.parametrize("action", ["", "update", "create"])
async def test_a_reader_changes_no_consumer_of_a_service_by_naming_it_elsewhere(server, how, action):
    """What is denied is denied by subject: the server must not take the name from the body."""
    owner, stream, durable = next(consumer for consumer in CONSUMERS if consumer[1] == EVENTS)
    where, names = NAMED_ELSEWHERE[how]
    provisioner, reader = await connect(server, PROVISIONER), await connect(server, "victor")
    try:
        before = await provisioner.jetstream().consumer_info(stream, durable)
        config = {
            **{name: value.format(durable=durable) for name, value in names.items()},
            "deliver_subject": f"_INBOX_victor.{owner}",
            "ack_policy": "none",
            "deliver_policy": "all",
            "max_ack_pending": 7,
        }
        for changes in (config, {name: value for name, value in config.items() if name != "deliver_subject"}):
            body = {"stream_name": stream, "config": changes, "action": action}
            subject = f"$JS.API.CONSUMER.CREATE.{where.format(stream=stream, durable=durable)}"
            with contextlib.suppress(nats.errors.Error):
                answer = json.loads((await reader.request(subject, json.dumps(body).encode(), timeout=2)).data)
                assert answer.get("error") or answer["name"] != durable, answer
        after = await provisioner.jetstream().consumer_info(stream, durable)
        assert (after.config, after.created) == (before.config, before.created)
    finally:
        await provisioner.close()
        await reader.close()


async def lets_in(server, name):
    """Connect, and try again while the server reads its configuration again."""
    for attempt in range(100):
        try:
            client = await connect(server, name)
        except REFUSED:
            if attempt == 99:
                raise
            await asyncio.sleep(0.05)
        else:
            await client.flush(timeout=5)
            await client.close()
            break


async def test_who_has_no_key_or_no_certificate_is_not_let_in(server, keys, tmp_path):
    strangers = KeyFolder(tmp_path)
    strangers.prepare(["127.0.0.1"], NOW)
    once = {"allow_reconnect": False, "max_reconnect_attempts": 1, "connect_timeout": 5}
    keyless = Connection(nats_url=server.url, nats_ca=keys.authority)
    unknown = keyless.model_copy(update={"nats_credentials": strangers.credential("registry")})
    for refused in (keyless, unknown):
        with pytest.raises(REFUSED):
            await credentials.connect(refused, **once)
    trusted = {"nats_credentials": keys.credential("registry"), "nats_ca": strangers.authority}
    with pytest.raises((ssl.SSLCertVerificationError, *REFUSED)):
        await credentials.connect(keyless.model_copy(update=trusted), **once)


async def test_a_key_is_replaced_while_both_are_accepted_and_then_withdrawn(tmp_path):
    keys = KeyFolder(tmp_path / "keys")
    keys.prepare(["127.0.0.1"], NOW)
    keys.add("paula", ["publisher"])
    server = NatsServer(tmp_path, keys)
    server.start()
    try:
        old = tmp_path / "old.nk"
        old.write_text(keys.credential("paula").read_text())
        keys.rotate("paula")
        server.reload()
        await lets_in(server, "paula")
        connection = server.settings("paula").model_copy(update={"nats_credentials": old})
        before = await credentials.connect(connection, max_reconnect_attempts=1)
        await before.flush(timeout=5)
        keys.retire("paula")
        server.reload()
        closed = asyncio.get_running_loop().time() + 10
        while before.is_connected and asyncio.get_running_loop().time() < closed:
            await asyncio.sleep(0.05)
        assert not before.is_connected, "a connection with a withdrawn key stays open"
        await before.close()
        await lets_in(server, "paula")
        keys.remove("paula")
        assert not keys.credential("paula").exists()
    finally:
        server.discard()
