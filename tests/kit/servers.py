"""Fixtures that every test may use: real servers, one set per test module; what they need is imported when they start."""

import asyncio
import itertools

import pytest

STORE_NOT_CREATED = 10049
PROVISION_TRIES = 5


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    """A bus with its files in memory: each test makes its streams anew, which takes four times as long on a disk."""
    from testbed.servers import NatsServer, running
    from tests.kit.memory_folder import memory_folder

    with memory_folder(tmp_path_factory.mktemp("nats")) as folder, running(NatsServer(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory):
    from testbed.servers import S3Server, running

    with running(S3Server(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    from testbed.servers import running
    from testbed.triton import TritonServer

    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as server:
        yield server


@pytest.fixture(scope="module")
def collector():
    """A collector of spans by OTLP."""
    from tests.kit.collector import Collector

    with Collector() as server:
        yield server


@pytest.fixture
async def js(nats_server):
    """A JetStream context on a freshly provisioned bus."""
    from nats.js.errors import ServerError

    from shared.messaging.provision import provision

    client = await nats_server.connect()
    context = client.jetstream(timeout=30)
    for stream in await context.streams_info():
        await context.delete_stream(stream.config.name)
    for attempt in itertools.count(1):
        try:
            await provision(context, dedupe_window_s=2.0)
            break
        except ServerError as error:  # the folder of a stream that was deleted just now may still be there
            if error.err_code != STORE_NOT_CREATED or attempt == PROVISION_TRIES:
                raise
            await asyncio.sleep(0.2)
    yield context
    await client.close()


@pytest.fixture
def settings(nats_server, s3_server, tmp_path):
    """Connection settings of a service that talks to both real servers."""
    from testbed.servers import connection

    return connection(nats_server, s3_server, tmp_path)


@pytest.fixture
def bus_settings(nats_server, tmp_path):
    """Connection settings of a service that needs the bus only."""
    from testbed.servers import connection

    return connection(nats_server, None, tmp_path)
