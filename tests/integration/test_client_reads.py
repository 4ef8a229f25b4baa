"""What a training job reads of the bus, with the credential of a viewer, of a team's member, and of a publisher alone."""

import asyncio
from datetime import UTC, datetime

import pytest

from clients.training import Connection, Published, ReadError, read_alerts, read_release, wait_for_release
from clients.training.releases import Alert
from contracts import facts as f
from contracts.envelope import plain
from contracts.recorded_releases import RecordedRelease, ReleasesOfModel
from contracts.vocabulary import ArtifactRef, Contract, canonical_json
from deploy.identity.key_folder import KeyFolder
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed import factories
from testbed.servers import NatsServer

MODEL, OTHER = "support-bot", "bank-bot"
FIRST, SECOND = "r-0123456789abcdef-1", "r-0123456789abcdef-2"


class Watched(Contract):
    """Of the monitor's record of a model."""

    alerts: dict[str, Alert]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1", "localhost"], datetime.now(UTC))
    folder.set_team("shop", [MODEL])
    folder.add("vera", ["publisher", "viewer"], team="shop")
    folder.add("victor", ["publisher", "viewer"])
    folder.add("pia", ["publisher"])
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, keys):
    server = NatsServer(tmp_path_factory.mktemp("nats"), keys)
    server.start()
    asyncio.run(provisioned(server))
    yield server
    server.discard()


async def provisioned(server):
    client = await server.connect("provisioner")
    await provision(client.jetstream(timeout=30))
    await client.close()


@pytest.fixture
async def js(server):
    client = await server.connect()
    yield client.jetstream(timeout=10)
    await client.close()


def connection(server, name) -> Connection:
    settings = server.settings(name)
    return Connection(settings.nats_url, str(settings.nats_credentials), str(settings.nats_ca))


def published(event_id) -> Published:
    ref = ArtifactRef(uri="s3://slipway/x", digest="sha256:" + "0" * 64, size_bytes=1)
    return Published(event_id, MODEL, ref, duplicate=False)


def recorded(release_id, event_id, version, **changes) -> RecordedRelease:
    opened = factories.fact(f.ReleaseOpened, release_id=release_id, source_event_id=event_id, version=version)
    at = factories.after(version)
    progress = factories.progress(model=MODEL, release_id=release_id, version=version, opened_at=at, outcome=None)
    return RecordedRelease(opened=opened, progress=progress.model_copy(update={"state": "merging", **changes}))


async def put(js, bucket, key, record):
    stored = Bucket(js, bucket, type(record))
    entry = await stored.get(key)
    await (stored.create(key, record) if entry is None else stored.update(key, record, entry.revision))


@pytest.mark.parametrize("name", ["victor", "vera"])
async def test_a_release_is_followed_from_its_announcement_to_its_end(js, server, name):
    changes, event_id = [], f"ready-{name}"
    await put(js, "releases", f"{MODEL}.{SECOND}", recorded(SECOND, "another", 4))
    await put(js, "releases", f"{MODEL}.{FIRST}", recorded(FIRST, event_id, 3))
    await put(
        js, "releases", f"{MODEL}.model", ReleasesOfModel(open=(FIRST, SECOND), reservations={FIRST: 3, SECOND: 4})
    )
    waiting = asyncio.create_task(
        asyncio.to_thread(
            wait_for_release,
            published(event_id),
            timeout_s=30,
            on_change=lambda progress: changes.append(progress.state),
            connection=connection(server, name),
        )
    )
    while not changes and not waiting.done():
        await asyncio.sleep(0.1)
    measured = factories.fact(f.VariantBenchmarked)
    ended = recorded(FIRST, event_id, 3, state="promoted", outcome="promoted")
    ended = ended.model_copy(
        update={"benchmarked": {"int8": measured}, "evaluated": factories.fact(f.VariantEvaluated)}
    )
    await put(js, "releases", f"{MODEL}.{FIRST}", ended)
    release = await waiting
    assert release.promoted
    assert (release.progress.release_id, changes) == (FIRST, ["merging", "promoted"])
    assert (release.benchmarks["int8"], release.evaluation) == (measured, ended.evaluated)
    read = await asyncio.to_thread(read_release, MODEL, connection=connection(server, name))
    assert read.progress.version == 4, "the newest one"
    read = await asyncio.to_thread(read_release, MODEL, 3, connection=connection(server, name))
    assert read.promoted
    assert await asyncio.to_thread(read_release, MODEL, 9, connection=connection(server, name)) is None


async def test_a_run_that_is_resumed_at_its_end_is_its_first_release(js, server):
    """The registry opens no other one for the same weights: when the training ended, and its figures, differ only."""
    first = factories.fact(f.CheckpointReady, model=MODEL, policy=factories.policy())
    about = {name: getattr(first, name) for name in f.CheckpointReady.model_fields}
    ended = recorded(FIRST, "first", 5, state="promoted", outcome="promoted")
    opened = factories.fact(f.ReleaseOpened, **about, release_id=FIRST, source_event_id="first", version=5)
    await put(js, "releases", f"{MODEL}.{FIRST}", ended.model_copy(update={"opened": opened}))
    await put(js, "releases", f"{MODEL}.model", ReleasesOfModel(reservations={FIRST: 5}))
    training = first.training.model_copy(update={"finished_at": factories.after(9)})
    again = first.model_copy(update={"training": training, "evals": (), "policy": None})
    victor = connection(server, "victor")
    resumed = Published("again", MODEL, first.weights.ref, duplicate=False, announced=again)
    release = await asyncio.to_thread(wait_for_release, resumed, timeout_s=10, connection=victor)
    assert (release.progress.release_id, release.promoted) == (FIRST, True)
    another = Published(
        "other", MODEL, first.weights.ref, False, again.model_copy(update={"attempt": first.attempt + 1})
    )
    with pytest.raises(TimeoutError, match="no release yet"):
        await asyncio.to_thread(wait_for_release, another, timeout_s=0.1, connection=victor)


async def test_a_refusal_before_a_release_ends_the_wait_and_a_time_limit_does(js, server):
    victor = connection(server, "victor")
    with pytest.raises(TimeoutError, match="no release yet"):
        await asyncio.to_thread(wait_for_release, published("unknown"), timeout_s=0.1, connection=victor)
    rejected = factories.fact(f.CheckpointRejected)
    event = factories.event(rejected, source="/slipway/registry", causationid="refused", subject=MODEL)
    await js.publish(event.nats_subject, canonical_json(plain(event)))
    release = await asyncio.to_thread(wait_for_release, published("refused"), timeout_s=10, connection=victor)
    assert (release.progress.outcome, release.progress.code) == ("rejected", rejected.code)
    assert not release.promoted


async def test_open_alerts_are_read_the_oldest_first(js, server):
    def alert(number, **changes):
        known = {"kind": "latency", "severity": "critical", "target": factories.target(7), "message": "late"}
        return Alert(alert_id=f"a-{number}", raised_at=factories.after(number), **{**known, **changes})

    assert await asyncio.to_thread(read_alerts, MODEL, connection=connection(server, "vera")) == []
    alerts = {str(number): alert(number, open=number != 2) for number in (3, 2, 1)}
    await put(js, "alerts", f"production.{MODEL}", Watched(alerts=alerts))
    read = await asyncio.to_thread(read_alerts, MODEL, connection=connection(server, "vera"))
    assert [each.alert_id for each in read] == ["a-1", "a-3"]


@pytest.mark.parametrize(("name", "model"), [("pia", MODEL), ("vera", OTHER)])
async def test_who_may_not_read_is_told_so_at_once(server, name, model):
    with pytest.raises(ReadError, match=f"Nothing was read: .*{name}"):
        await asyncio.to_thread(read_release, model, connection=connection(server, name))


def test_a_bus_that_does_not_answer_is_an_error(server):
    away = Connection("nats://127.0.0.1:1", connection(server, "victor").nats_credentials)
    with pytest.raises(ReadError, match="does not answer: try again later"):
        read_alerts(MODEL, connection=away)
