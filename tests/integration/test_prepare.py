"""What the containers run once before the services: bus and store are ready afterwards, however often it is run."""

import asyncio
import hashlib
import os
import re
import sys
from pathlib import Path

import pytest

from contracts.identities import PROVISIONER
from contracts.services import EVENTS, INBOX
from deploy.data_format import DATA_FORMAT
from deploy.docker.prepare import FORMAT_KEY, ForeignData, prepare
from shared.errors import Permanent, Transient
from shared.messaging import topology
from shared.messaging.credentials import connect
from shared.messaging.provision import provision
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store
from testbed.cluster import running_cluster
from testbed.forked import run
from testbed.servers import bus_variables, store_variables, wait_until


@pytest.fixture
async def bus(js):
    """A bus without any stream."""
    for stream in await js.streams_info():
        await js.delete_stream(stream.config.name)
    return js


@pytest.fixture
def admin(settings, s3_server, request):
    """An administrator's settings with a bucket of the test's own, which does not exist yet."""
    bucket = f"prepare-{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}"
    s3_server.keys.prepare([], SystemClock().now(), bucket=bucket)
    s3_server.reload()
    own = settings.model_copy(update={"s3_bucket": bucket})
    wait_until(lambda: missing(own), what="the policies of the new bucket")
    return own


def missing(settings):
    try:
        return not Store(settings).keys("")
    except Permanent as error:
        return error.code == "artifact_not_found"


@pytest.fixture
def fresh(admin, settings, s3_server):
    """The settings of provisioning with that bucket."""
    assert settings.nats_credentials is not None
    own = settings.nats_credentials.with_name(f"{PROVISIONER}.nk")
    key = s3_server.keys.store.credential(PROVISIONER)
    return admin.model_copy(update={"nats_credentials": own, "s3_credentials": key})


async def write_record(bus):
    await bus.create_key_value(topology.buckets()[0])
    await (await bus.key_value(topology.buckets()[0].bucket)).put("support-bot", b"{}")


async def test_bus_and_store_are_ready_also_the_second_time_with_data_in_them(bus, fresh, admin):
    await prepare(fresh)
    assert {EVENTS, INBOX} <= {stream.config.name for stream in await bus.streams_info()}
    assert Store(fresh).reachable()
    assert Store(fresh).find(FORMAT_KEY) == str(DATA_FORMAT).encode()
    Store(admin).create("manifests/version.json", b"{}")
    await write_record(bus)
    await prepare(fresh)


async def test_the_bucket_is_made_with_object_lock_and_one_without_is_used_with_a_sentence(
    bus, fresh, settings, s3_server, capfd
):
    await prepare(fresh)
    assert Store(fresh).has_lock()
    assert "object lock" not in capfd.readouterr().err
    other = fresh.model_copy(update={"s3_bucket": f"{fresh.s3_bucket}-old"})
    s3_server.keys.prepare([], SystemClock().now(), bucket=other.s3_bucket)
    s3_server.reload()
    admin = settings.model_copy(update={"s3_bucket": other.s3_bucket})
    wait_until(lambda: missing(admin), what="the policies of the new bucket")
    Store(other)._client.make_bucket(bucket_name=other.s3_bucket)
    await prepare(other)
    assert not Store(other).has_lock()
    assert f"The bucket {other.s3_bucket} was made without object lock" in capfd.readouterr().err


async def test_a_provisioned_bus_without_messages_holds_no_data(bus, fresh):
    await provision(bus)
    await prepare(fresh)
    assert Store(fresh).find(FORMAT_KEY) == str(DATA_FORMAT).encode()


@pytest.mark.parametrize("where", ["store", "bus"])
async def test_volumes_of_an_older_slipway_or_of_something_else_are_refused_and_no_stream_is_changed(
    bus, fresh, admin, where
):
    Store(fresh).ensure_bucket()
    if where == "store":
        Store(admin).create("manifests/version.json", b"{}")
    else:
        await write_record(bus)
    before = await bus.streams_info()
    sentence = (
        f"hold data of an older Slipway, or of something else (no format is recorded, this one uses {DATA_FORMAT})"
    )
    with pytest.raises(ForeignData, match=re.escape(sentence)):
        await prepare(fresh)
    assert await bus.streams_info() == before
    assert Store(fresh).find(FORMAT_KEY) is None


async def test_data_of_a_newer_slipway_ends_the_program_with_one_sentence(bus, fresh):
    Store(fresh).ensure_bucket()
    Store(fresh).create(FORMAT_KEY, str(DATA_FORMAT + 1).encode())
    variables = {
        **bus_variables(fresh, PROVISIONER),
        **store_variables(fresh, PROVISIONER),
    }
    command = [sys.executable, "-m", "deploy.docker.prepare"]
    done = await asyncio.to_thread(run, command, environment={**os.environ, **variables}, cwd=Path.cwd(), timeout_s=60)
    assert done.returncode == 1
    assert done.stderr == (
        f"prepare: bucket {fresh.s3_bucket} at {fresh.s3_endpoint} and the streams at {fresh.nats_url} hold data of "
        f"a newer Slipway (format {DATA_FORMAT + 1}, this one uses {DATA_FORMAT}); "
        "start with empty ones (`docker compose down --volumes` deletes those of compose)\n"
    )
    assert await bus.streams_info() == []


def observe_requests(monkeypatch, subject):
    """Return an event that is set once the program asks the bus this."""
    asked = asyncio.Event()

    async def connected(*arguments):
        client = await connect(*arguments)
        request = client.request

        async def observed(name, *rest, **options):
            if subject in name:
                asked.set()
            return await request(name, *rest, **options)

        client.request = observed
        return client

    monkeypatch.setattr("deploy.docker.prepare.connect", connected)
    return asked


async def test_a_new_cluster_is_prepared_as_soon_as_its_servers_have_chosen_a_leader(fresh, tmp_path, monkeypatch):
    """Before that no server answers: the container ended with an error, and nothing was started."""
    with running_cluster(tmp_path) as cluster:
        first, *others = cluster.members
        for member in others:
            member.kill()
        own = fresh.model_copy(update={
            name: getattr(cluster.settings(PROVISIONER), name) for name in ("nats_credentials", "nats_ca")
        })  # fmt: skip
        own = own.model_copy(update={"nats_url": first.url, "replicas": 3})
        asked = observe_requests(monkeypatch, "STREAM.LIST")
        prepared = asyncio.create_task(prepare(own))
        async with asyncio.timeout(30):
            await asked.wait()
        for member in others:
            member.start()
        await prepared
        client = await cluster.connect()
        js = client.jetstream(timeout=20)
        assert {stream.config.num_replicas for stream in await js.streams_info()} == {3}
        await client.close()


async def test_a_cluster_without_a_leader_is_reported_in_a_sentence(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.docker.prepare.LEADER_S", 2.0)
    with running_cluster(tmp_path) as cluster:
        first, *others = cluster.members
        for member in others:
            member.kill()
        settings = cluster.settings(PROVISIONER)
        own = fresh.model_copy(update={"nats_credentials": settings.nats_credentials, "nats_ca": settings.nats_ca})
        with pytest.raises(Transient, match="which streams it has"):
            await prepare(own.model_copy(update={"nats_url": first.url}))
