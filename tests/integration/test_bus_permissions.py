"""The permissions of every identity on a real server: what it needs works, all else is refused.

What is expected follows from the declarations of services and roles, not from the permissions that are tested.
"""

import asyncio
import contextlib
import json
import ssl
from datetime import UTC, datetime
from functools import partial

import nats.errors
import nats.js.errors
import pytest

from contracts.api_usage import TRAFFIC_PREFIX, EndpointUse, TrafficReport
from contracts.envelope import nats_subject, plain, source_of
from contracts.facts import CheckpointReady, RollbackOrdered
from contracts.identities import PROVISIONER
from contracts.services import (
    EVENTS,
    INBOX,
    ORDERS,
)
from contracts.storage.uploads import UPLOADS
from contracts.vocabulary import canonical_json
from deploy.identity.key_folder import KeyFolder
from services.console.adapters.fleets import read_traffic
from shared.errors import Permanent
from shared.messaging import credentials
from shared.messaging.events import parse_event
from shared.messaging.provision import provision
from shared.runtime.settings import Connection
from testbed import factories
from testbed.servers import NatsServer
from tests.kit import bus_matrix
from tests.kit.bus_matrix import CONSUMERS, IDENTITIES, MEMBERS, REFUSED

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1", "localhost"], NOW)
    bus_matrix.add_users(folder)
    folder.add("pia", ["publisher"], ["support-bot"])
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


@pytest.mark.parametrize("name", IDENTITIES)
async def test_each_identity_may_do_what_it_needs_and_nothing_else(server, name):
    tried = bus_matrix.expected(name)
    refused = await bus_matrix.refused_of(partial(connect, server, name), tried)
    assert refused == {subject.lower() for subject, allowed in tried.items() if not allowed}


@pytest.mark.parametrize("name", IDENTITIES)
async def test_each_identity_reads_its_own_inbox_only(server, name):
    tried = bus_matrix.expected_reads(name)
    refused = await bus_matrix.refused_reads_of(partial(connect, server, name), tried)
    assert refused == {subject.lower() for subject, allowed in tried.items() if not allowed}


async def test_a_publisher_of_named_models_announces_no_other(server):
    refused: set[str] = set()

    async def note(error):
        refused.add(str(error).split('"')[1])

    client = await connect(server, "pia", error_cb=note)
    for model in ("support-bot", "other-bot"):
        await client.publish(f"{CheckpointReady.TYPE}.{model}.pia", b"")
        await client.publish(f"{UPLOADS}.{model}.pia", b"")
    await client.flush(timeout=5)
    async with asyncio.timeout(30):
        while len(refused) < 2:
            await asyncio.sleep(0.01)
    await client.close()
    assert refused == {f"{CheckpointReady.TYPE}.other-bot.pia", f"{UPLOADS}.other-bot.pia"}


async def test_the_registry_answers_a_request_and_publishes_nowhere_else(server):
    """An answer is one message within two minutes, on the subject that the request names."""
    refused: list[str] = []

    async def note(error):
        refused.append(str(error).split('"')[1])

    async def answer(message):
        for body in (b"first", b"second"):
            await registry.publish(message.reply, body)
        await registry.publish("_INBOX_pia.unasked", b"")

    registry = await connect(server, "registry", error_cb=note)
    await registry.subscribe(f"{UPLOADS}.*.*", cb=answer)
    await registry.flush()
    client = await connect(server, "pia")
    assert (await client.request(f"{UPLOADS}.support-bot.pia", b"?", timeout=10)).data == b"first"
    await registry.flush()
    async with asyncio.timeout(30):
        while len(refused) < 2:
            await asyncio.sleep(0.01)
    await registry.close()
    await client.close()
    assert len(refused) == 2
    assert "_inbox_pia.unasked" in [subject.lower() for subject in refused]


@pytest.mark.parametrize("name", MEMBERS)
async def test_a_member_publishes_orders_and_approves_for_the_models_of_its_team_only(server, name):
    own, tried = bus_matrix.expected_of_member(name)
    refused = await bus_matrix.refused_of(partial(connect, server, name), tried)
    assert refused == {subject for subject, allowed in tried.items() if not allowed}
    assert {subject.split(".")[-2] for subject, allowed in tried.items() if allowed} == own


SAID = plain(factories.event(RollbackOrdered, source=source_of("oscar")))
"""An order as oscar gives it, in the hands of someone else."""


async def orders(server):
    """Return sender and body of each stored order."""
    js = (client := await connect(server, PROVISIONER)).jetstream(timeout=10)
    state = (await js.stream_info(ORDERS)).state
    await client.close()
    js = (client := await connect(server, "adam")).jetstream(timeout=10)
    stored = [await js.get_msg(ORDERS, number) for number in range(max(1, state.first_seq), state.last_seq + 1)]
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
            config = {"deliver_subject": theirs, "ack_policy": "none", "deliver_policy": "all", "name": "mallory-0"}
            body = json.dumps({"stream_name": INBOX, "config": config}).encode()
            await mallory.request(f"$JS.API.CONSUMER.CREATE.{INBOX}.mallory-0", body, timeout=5)
        elif how == "pull, answered elsewhere":
            config = {"ack_policy": "none", "deliver_policy": "all", "name": "mallory-0"}
            body = json.dumps({"stream_name": INBOX, "config": config}).encode()
            await mallory.request(f"$JS.API.CONSUMER.CREATE.{INBOX}.mallory-0", body, timeout=5)
            await mallory.publish(f"$JS.API.CONSUMER.MSG.NEXT.{INBOX}.mallory-0", b'{"batch": 5}', reply=theirs)
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
        await asyncio.sleep(0.3)  # a copy that the server would store has arrived; in some cases it stores none
        for subject, body in (await orders(server))[len(before) :]:
            with pytest.raises(Permanent):  # an answer of the server is no event; a copy keeps its own subject
                parse_event(RollbackOrdered, subject, body)
    finally:
        await mallory.close()


REPORT = TrafficReport(process="deadbeefdeadbeef", endpoints={"triton:8001": EndpointUse(outstanding_tokens=7)})


@pytest.mark.parametrize("how", ["push consumer", "pull", "read"])
async def test_no_copy_of_a_message_counts_as_traffic_that_a_gateway_reported(server, how):
    """Else a publisher who also reads could invent the load of endpoints."""
    reports = f"{TRAFFIC_PREFIX}.{REPORT.process}"
    gateway, mallory = await connect(server, "gateway"), await connect(server, "mallory")
    console = await connect(server, "console")
    arrived: asyncio.Queue = asyncio.Queue()
    js = mallory.jetstream(timeout=5)
    try:
        await console.subscribe(f"{TRAFFIC_PREFIX}.*", cb=arrived.put)
        await console.flush(timeout=5)
        own = nats_subject(CheckpointReady.TYPE, "support-bot", "mallory")
        sequence = (await js.publish(own, REPORT.model_dump_json().encode())).seq
        name = f"mallory-{1 if how == 'pull' else 2}"
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
        own_report = REPORT.model_copy(update={"endpoints": {"triton:8001": EndpointUse(stalled=True)}})
        async with asyncio.timeout(20):
            copies = [] if how == "push consumer" else [read_traffic(await arrived.get())]
            await gateway.publish(reports, own_report.model_dump_json().encode())
            while (report := read_traffic(await arrived.get())) != own_report:
                copies.append(report)
        assert copies == [None] * len(copies)
    finally:
        await mallory.close()
        await gateway.close()
        await console.close()


NAMED_ELSEWHERE = {
    "durable name in the body": ("{stream}", {"durable_name": "{durable}"}),
    "name in the body": ("{stream}", {"name": "{durable}"}),
    "both in the body": ("{stream}", {"name": "{durable}", "durable_name": "{durable}"}),
    "another name in the subject": ("{stream}.victor-0", {"name": "{durable}"}),
    "another name in the subject, durable": ("{stream}.victor-0", {"durable_name": "{durable}"}),
    "another name with a filter": ("{stream}.victor-0.slipway.>", {"name": "{durable}", "filter_subject": "slipway.>"}),
}


@pytest.mark.parametrize("how", NAMED_ELSEWHERE)
@pytest.mark.parametrize("action", ["", "update", "create"])
async def test_a_reader_changes_no_consumer_of_a_service_by_naming_it_elsewhere(server, how, action):
    """What is denied is denied by subject: the server must not take the name from the body."""
    owner, stream, durable = next(consumer for consumer in CONSUMERS if consumer[1] == EVENTS)
    where, names = NAMED_ELSEWHERE[how]
    name = "console" if where == "{stream}" else "victor"  # no user may leave the name out of the subject
    provisioner, reader = await connect(server, PROVISIONER), await connect(server, name)
    try:
        before = await provisioner.jetstream().consumer_info(stream, durable)
        config = {
            **{name: value.format(durable=durable) for name, value in names.items()},
            "deliver_subject": f"_INBOX_{name}.{owner}",
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
