"""What members of a team read: their models' events, records and objects with every command, and no other team's.

Each attempt at another team's is refused by the servers, whatever the client is.
"""

import asyncio
import contextlib
import json
import uuid
from datetime import UTC, datetime

import pytest

from clients.cli.commands.policy import check_policy
from clients.cli.connection import StackAddress
from clients.cli.events.following import follow
from clients.cli.events.last_events import last_sequences
from contracts import facts as f
from contracts.envelope import nats_subject, plain, source_of
from contracts.identities import Role
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.services import DEADLETTER, DEADLETTER_PREFIX, EVENTS, INBOX, ORDERS, RECORD_KEYS, TELEMETRY
from contracts.vocabulary import canonical_json
from decisions.access.bus_permissions import permissions_of
from decisions.access.teams import narrowed
from deploy.identity.key_folder import KeyFolder
from shared.messaging import topology
from shared.messaging.provision import provision
from shared.messaging.publishing import publish_event
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories, released
from testbed.attesters import attester_keys
from testbed.servers import NatsServer, S3Server
from tests.kit.command import run_command
from tests.kit.wiring import ROOT

STREAMS = (INBOX, ORDERS, EVENTS, TELEMETRY, DEADLETTER)
MEMBERS: dict[str, tuple[Role, ...]] = {"vera": ("viewer",), "sam": ("publisher", "operator", "approver")}
OWN, FOREIGN = "shop-bot", "bank-bot"
RELEASE = "r-0123456789abcdef-1"
LIKE_TOKENS = ("v1", "v2", "staging", "production", "alert", "raised", "deadletter", "registry")
"""Names of models that are parts of other subjects and keys, too."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1", "localhost"], datetime.now(UTC))
    folder.set_team("shop", [OWN, "faq-bot"])
    folder.set_team("bank", [FOREIGN])
    folder.set_team("tokens", list(LIKE_TOKENS))
    folder.add("tom", ["viewer"], team="tokens")
    for name, roles in MEMBERS.items():
        folder.add(name, roles, team="shop")
    folder.add("victor", ["viewer"])
    folder.add("pia", ["publisher"])
    folder.add("admin", ["administrator"])
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, keys):
    server = NatsServer(tmp_path_factory.mktemp("nats"), keys)
    server.start()
    asyncio.run(fill(server))
    yield server
    server.discard()


@pytest.fixture(scope="module")
def store(tmp_path_factory, keys):
    server = S3Server(tmp_path_factory.mktemp("s3"), keys)
    server.start()
    for model in (OWN, FOREIGN):
        released.release(Store(server.settings()), keys.path, model)
    yield server
    server.discard()


async def fill(server):
    """Publish the same events, records and dead letters about both models."""
    provisioner = await server.connect("provisioner")
    await provision(provisioner.jetstream(timeout=30))
    await provisioner.close()
    client = await server.connect()
    js = client.jetstream(timeout=10)
    for model in (OWN, FOREIGN):
        kinds = (f.CheckpointReady, f.RollbackOrdered, f.OrderRefused, f.ReleaseOpened, f.AlertRaised)
        for kind in kinds:
            source = source_of("sam") if kind is f.RollbackOrdered else factories.source_for(kind)
            fact = factories.fact(kind, **about(kind, model))
            changes = {"id": str(uuid.uuid4()), "subject": model, "source": source, "correlationid": f"{model}-7"}
            event = factories.event(fact, **changes)
            await js.publish(event.nats_subject, canonical_json(plain(event)))
        raised = factories.fact(f.AlertRaised, **about(f.AlertRaised, model))
        staged = factories.event(raised, id=str(uuid.uuid4()), subject=model, environment="staging")
        await js.publish(staged.nats_subject, canonical_json(plain(staged)))
        headers = {"Slipway-Subject": f"slipway.x.{model}.y", "Slipway-Service": "merger", "Slipway-Code": "oom"}
        await js.publish(f"{DEADLETTER_PREFIX}.{model}.merger", b"{}", headers=headers)
        served = {"active": factories.served(7, model=model), "quarantined": (factories.target(4, model=model),)}
        route = Route(model=model, epoch=1, cause_id="c", **served)
        await Bucket(js, "routes", Route).create(model, route)
        await Bucket(js, "policies", ReleasePolicy).create(model, factories.policy())
        for bucket, patterns in RECORD_KEYS.items():
            for pattern in patterns:
                key = pattern.format(model=model).replace("*", "production")
                if bucket not in ("routes", "policies"):
                    await js.publish(f"$KV.{bucket}.{key}", b"{}")
        for key, record in released_as(model).items():
            await js.publish(f"$KV.releases.{model}.{key}", canonical_json(record))
    await client.close()


def released_as(model):
    """Return the registry's records of a model with one release, by the ends of their keys."""
    opened = factories.fact(f.ReleaseOpened, release_id=RELEASE, model=model)
    progress = factories.progress(release_id=RELEASE, model=model)
    release = {
        name: fact.model_dump(mode="json", by_alias=True) for name, fact in (("opened", opened), ("progress", progress))
    }
    known = {"open": [RELEASE], "reservations": {RELEASE: 7}}
    return {RELEASE: {"schema_version": 1, **release}, "model": {"schema_version": 1, **known}}


def about(kind, model):
    """Return the fields of a fact that name its model."""
    named = {f.ReleaseOpened: {"release_id": f"{model}-7", "model": model}, f.CheckpointReady: {"model": model}}
    alert = {"target": factories.target(model=model), "alert_id": f"{model}/slow/1"}
    return named.get(kind, alert if kind is f.AlertRaised else {})


def slipway(server, store, name, *arguments):
    variables = {
        "SLIPWAY_NATS_URL": server.url,
        "SLIPWAY_NATS_CREDENTIALS": str(server.keys.credential(name)),
        "SLIPWAY_NATS_CA": str(server.keys.authority),
        "SLIPWAY_S3_ENDPOINT": f"127.0.0.1:{store.port}",
        "SLIPWAY_S3_CREDENTIALS": str(server.keys.store.credential(name)),
        "SLIPWAY_S3_CA": str(server.keys.authority),
        "SLIPWAY_ATTESTERS": str(attester_keys(server.keys.path).listing),
        "SLIPWAY_STATE_DIR": str(server.folder),
    }
    return run_command(variables, *arguments)


SHOWN = {
    ("events",): "checkpoint.ready",
    ("events", "--environment", "staging"): "alert.raised",
    ("status",): OWN,
    ("alerts",): OWN,
    ("deadletters", "list"): OWN,
    ("routes",): OWN,
}
"""By command: what it prints about the team's model."""


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_a_command_shows_a_member_the_models_of_its_team_only(server, store, name, command):
    status, out, err = slipway(server, store, name, *command)
    assert status == 0, err
    assert SHOWN[command] in out
    assert FOREIGN not in out
    assert FOREIGN in slipway(server, store, "victor", *command)[1], "an identity without a team sees all"


@pytest.mark.parametrize("name", MEMBERS)
def test_what_is_about_one_model_is_read_for_ones_own_and_refused_for_anothers(server, store, name):
    for command in (["versions", OWN], ["show", f"{OWN}@v2"], ["policy", "show", OWN], ["verify", f"{OWN}@v2"]):
        status, out, err = slipway(server, store, name, *command)
        assert (status, bool(out), err) == (0, True, ""), command
    for command in (
        ["versions", FOREIGN],
        ["show", f"{FOREIGN}@v2"],
        ["policy", "show", FOREIGN],
        ["events", FOREIGN],
        ["status", FOREIGN],
        ["alerts", FOREIGN],
        ["audit"],
    ):
        status, out, err = slipway(server, store, name, *command)
        assert (status, out) != (0, out), command
        assert FOREIGN not in out
        assert "not permit" in err or "403" in err or "AccessDenied" in err or "without a team" in err, (command, err)


def test_a_member_reads_its_own_dead_letter_only(server, store):
    numbers = {
        row["subject"]: row["sequence"]
        for row in json.loads(slipway(server, store, "victor", "deadletters", "list", "--json")[1])
    }
    own, foreign = numbers[f"slipway.x.{OWN}.y"], numbers[f"slipway.x.{FOREIGN}.y"]
    assert slipway(server, store, "vera", "deadletters", "show", str(own))[0] == 0
    status, out, err = slipway(server, store, "vera", "deadletters", "show", str(foreign))
    assert (status, out) == (1, "")
    assert "there is no dead letter" in err


def attempts():
    """Requests that would show another team's model, or all of them."""
    api = "$JS.API"
    for stream in (*STREAMS, *(f"KV_{bucket}" for bucket in topology.BUCKETS)):
        for verb in ("STREAM.MSG.GET", "STREAM.INFO", "DIRECT.GET", "CONSUMER.LIST", "CONSUMER.NAMES"):
            yield f"{api}.{verb}.{stream}"
        for end in ("", ".x", ".x.>", f".x.slipway.*.*.v1.{FOREIGN}.*", f".x.slipway.staging.*.*.v1.{FOREIGN}.*"):
            yield f"{api}.CONSUMER.CREATE.{stream}{end}"
        for end in ("slipway.>", "slipway.*.*.*.*.*", "slipway.*.*.*.>", f"slipway.deadletter.{FOREIGN}.*", "$KV.>"):
            yield f"{api}.CONSUMER.CREATE.{stream}.x.{end}"
        yield f"{api}.CONSUMER.DURABLE.CREATE.{stream}.x"
        yield f"{api}.CONSUMER.MSG.NEXT.{stream}.victor-0"
        yield f"{api}.CONSUMER.CREATE.{stream}.victor-0.slipway.*.*.v1.{OWN}.*"
        yield f"{api}.DIRECT.GET.{stream}.slipway.release.opened.v1.{FOREIGN}.registry"
    for bucket in topology.BUCKETS:
        for key in (FOREIGN, f"*.{FOREIGN}", f"{FOREIGN}.*", f"production.{FOREIGN}", ">", f"{FOREIGN}.>", "tail"):
            yield f"{api}.CONSUMER.CREATE.KV_{bucket}.x.$KV.{bucket}.{key}"
            yield f"{api}.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}"


@pytest.mark.parametrize("name", MEMBERS)
async def test_the_server_refuses_each_request_for_another_teams_models(server, name):
    refused: set[str] = set()

    async def note(error):
        refused.add(str(error).split('"')[1])

    client = await server.connect(name, error_cb=note)
    tried = set(attempts())
    for subject in tried:
        await client.publish(subject, b"", reply=f"_INBOX_{name}.x")
    live = {nats_subject(f.WorkProgressed.TYPE, model, "*") for model in (FOREIGN, "*")}
    for subject in live:
        await client.subscribe(subject)
    await client.subscribe(nats_subject(f.WorkProgressed.TYPE, OWN, "*"))
    await client.flush(timeout=10)
    async with asyncio.timeout(60):
        while len(refused) < len(tried) + len(live):
            await asyncio.sleep(0.02)
    await client.close()
    assert refused == {subject.lower() for subject in (*tried, *live)}


MINE = f"slipway.*.*.v1.{OWN}.*"
THEIRS = f"slipway.*.*.v1.{FOREIGN}.*"
BODIES = {
    "another filter": {"filter_subject": THEIRS},
    "all": {"filter_subject": ">"},
    "no filter": {},
    "filters": {"filter_subjects": [THEIRS]},
    "more filters": {"filter_subjects": [MINE, THEIRS]},
    "both": {"filter_subject": MINE, "filter_subjects": [MINE, THEIRS]},
    "one of several": {"filter_subject": MINE, "filter_subjects": [THEIRS]},
    "the next tokens": {"filter_subject": f"{MINE}.>"},
}


@pytest.mark.parametrize("how", BODIES)
@pytest.mark.parametrize("action", ["", "update", "create"])
async def test_the_body_of_a_request_opens_no_more_than_its_subject(server, how, action):
    client, name = await server.connect("vera"), "vera-0"
    subject = f"$JS.API.CONSUMER.CREATE.{EVENTS}.{{}}.{MINE}"
    try:
        if action == "update":
            config = {"name": name, "filter_subject": MINE, "ack_policy": "none"}
            made = await ask(client, subject.format(name), {"stream_name": EVENTS, "config": config})
            assert made["num_pending"] == 3
        config = {"name": name, "ack_policy": "none", "deliver_policy": "all", **BODIES[how]}
        answer = await ask(client, subject.format(name), {"stream_name": EVENTS, "config": config, "action": action})
        assert "error" in answer, answer
    finally:
        await client.request(f"$JS.API.CONSUMER.DELETE.{EVENTS}.{name}", b"", timeout=5)
        await client.close()


async def ask(client, subject, body):
    return json.loads((await client.request(subject, json.dumps(body).encode(), timeout=5)).data)


@pytest.mark.parametrize("filtered", [f"slipway.*.*.v1.{OWN}.>", f"slipway.>.*.v1.{OWN}.*", f"slipway.*.*.v1.{OWN}.*"])
async def test_a_filter_with_other_wildcards_is_of_ones_own_model_or_is_no_filter(server, filtered):
    client = await server.connect("vera")
    config = {"name": "vera-0", "filter_subject": filtered, "ack_policy": "none", "deliver_policy": "all"}
    body = {"stream_name": EVENTS, "config": config}
    answer = await ask(client, f"$JS.API.CONSUMER.CREATE.{EVENTS}.vera-0.{filtered}", body)
    if "error" not in answer:
        subscription = await client.jetstream().pull_subscribe_bind(consumer="vera-0", stream=EVENTS)
        messages = await subscription.fetch(answer["num_pending"], timeout=5)
        assert {message.subject.split(".")[-2] for message in messages} == {OWN}
        await client.jetstream().delete_consumer(EVENTS, "vera-0")
    await client.close()


async def test_a_model_that_is_called_like_another_part_of_subjects_or_keys_shows_no_other_model(server):
    """Each pattern that the member may ask for, with each end that it permits, selects no message that is there."""
    (tom,) = (each for each in server.keys.identities() if each.name == "tom")
    allowed = permissions_of(narrowed(tom, server.keys.teams())).publish
    permitted = [each for each in allowed if ".CONSUMER.CREATE." in each]
    assert len(permitted) > 50
    client = await server.connect("tom")
    for pattern in permitted:
        stream, name, filtered = pattern.removeprefix("$JS.API.CONSUMER.CREATE.").split(".", 2)
        for end in ("*", ">"):
            widened = filtered[: -len("*")] + end if filtered.endswith(".*") else filtered
            config = {"filter_subject": widened, "ack_policy": "none", "deliver_policy": "all", "name": name}
            body = {"stream_name": stream, "config": config}
            answer = await ask(client, f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{widened}", body)
            assert answer.get("num_pending", 0) == 0 or ".servers." in widened, widened
            await client.request(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"", timeout=5)
    for pattern in (each for each in allowed if each.startswith("$JS.API.DIRECT.GET.")):
        for end in ("*", ">"):
            widened = pattern.removesuffix("*") + end if pattern.endswith(".*") else pattern
            answer = await client.request(widened, b"", timeout=5)
            assert answer.headers.get("Status") == "404" or ".servers." in widened, widened
    await client.close()


async def test_a_request_names_another_stream_in_its_body_in_vain(server):
    client = await server.connect("vera")
    for stream in ("KV_api-keys", ORDERS):
        config = {"name": "vera-0", "filter_subject": MINE, "ack_policy": "none"}
        answer = await ask(
            client, f"$JS.API.CONSUMER.CREATE.{EVENTS}.vera-0.{MINE}", {"stream_name": stream, "config": config}
        )
        assert "error" in answer
    await client.close()


async def test_a_member_follows_more_subjects_than_it_may_have_consumers_and_gets_each_event_once(server):
    client, publisher = await server.connect("vera"), await server.connect()
    try:
        after = await last_sequences(client.jetstream(timeout=10))
        live = follow(client, after=after)
        js, published = publisher.jetstream(timeout=10), []
        for model in (OWN, FOREIGN, "faq-bot", OWN):
            for environment in ("production", "staging"):
                raised = factories.fact(f.AlertRaised, **about(f.AlertRaised, model))
                event = factories.event(raised, id=str(uuid.uuid4()), subject=model, environment=environment)
                await publish_event(js, event)
                published += [event.id] if model != FOREIGN else []
        async with asyncio.timeout(30), contextlib.aclosing(live):
            received = [(await anext(live)).event.id for _ in published]
            consumers = [(await js.stream_info(stream)).state.consumer_count for stream in (INBOX, ORDERS)]
        assert sorted(received) == sorted(published)
        assert consumers == [sum(stream == each for each, _ in topology.consumers()) for stream in (INBOX, ORDERS)]
    finally:
        await client.close()
        await publisher.close()


def test_every_bucket_says_which_keys_are_of_one_model():
    assert set(RECORD_KEYS) == set(topology.BUCKETS)


@pytest.mark.parametrize(
    "command",
    [
        ["rollback", "shp-bot", "--reason", "slow", "--dry-run"],
        ["rollback", "shp-bot", "--reason", "slow"],
        ["drill", "shp-bot", "--fault", "garble", "--reason", "test"],
        ["rollback", "confirm", "shp-bot", "--reason", "slow"],
        ["policy", "show", "shp-bot"],
        ["routes", "shp-bot"],
        ["status", "shp-bot"],
        ["versions", "shp-bot"],
        ["show", "shp-bot@v2"],
        ["show", "shp-bot@active"],
        ["card", "shp-bot@v2"],
        ["verify", "shp-bot@v2"],
        ["alerts", "shp-bot"],
        ["events", "shp-bot"],
        ["pause", "shp-bot", "--reason", "test"],
        ["retry", "shp-bot"],
        ["replay", "shp-bot", "--policy", str(ROOT / "examples" / "smollm2" / "policy.yaml")],
    ],
    ids=" ".join,
)
def test_a_misspelt_model_is_refused_with_the_one_that_is_like_it(server, store, command):
    status, _, err = slipway(server, store, "victor", *command)
    assert status == 1, err
    assert f"did you mean {OWN}?" in err


@pytest.mark.parametrize("name", ["pia", "sam"])
def test_a_publisher_who_may_not_read_leaves_the_policy_to_the_registry(server, name):
    settings = Connection(
        nats_url=server.url, nats_credentials=server.keys.credential(name), nats_ca=server.keys.authority
    )
    stack = StackAddress(settings, None, "test")
    unknown = OWN if name == "pia" else FOREIGN
    check_policy(stack, unknown, None)
