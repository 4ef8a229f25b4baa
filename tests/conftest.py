"""Fixtures that every test may use: real servers, one set per test module."""

import asyncio
import itertools

import hypothesis
import pytest
import structlog
from nats.js.errors import ServerError

from shared.messaging.provision import provision
from testbed import forked
from testbed.servers import NatsServer, S3Server, connection, running
from testbed.triton import TritonServer
from tests.kit.memory_folder import memory_folder
from tests.kit.process_settings import left_behind, process_settings
from tests.kit.soak import TIMES, often
from tests.kit.tiny import module_stack, stack_of, tiny  # noqa: F401 - fixtures

STORE_NOT_CREATED = 10049
PROVISION_TRIES = 5

forked.allow()
structlog.configure(  # its default shows exceptions by rich: a second of processor time for each that is logged
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)
# The same examples at each run, so that one fails by what was changed; `make soak-tests` draws others.
hypothesis.settings.register_profile("fast", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fast")
hypothesis.settings.register_profile("soak", max_examples=often(100), deadline=None, derandomize=False)
if TIMES > 1:
    hypothesis.settings.load_profile("soak")

pytest_plugins = [
    "pytester",
    "tests.kit.run.beside",
    "tests.kit.run.compiling",
    "tests.kit.run.costs",
    "tests.kit.run.encodable",
    "tests.kit.run.flaky",
    "tests.kit.run.garbage",
    "tests.kit.run.lanes",
]


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """Fail a test that leaves the process computing, or reading the environment, otherwise than it found it."""
    before = process_settings()
    yield
    assert left_behind(before, process_settings()) == []


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    """A bus with its files in memory: each test makes its streams anew, which takes four times as long on a disk."""
    with memory_folder(tmp_path_factory.mktemp("nats")) as folder, running(NatsServer(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory):
    with running(S3Server(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as server:
        yield server


@pytest.fixture(scope="module")
def collector():
    """A collector of spans and metrics by OTLP."""
    from tests.kit.collector import Collector  # reads the protocol's messages, which few tests need

    with Collector() as server:
        yield server


@pytest.fixture(scope="module")
def traced_triton(collector, tmp_path_factory):
    """A Triton that sends its spans to the collector."""
    with running(TritonServer(tmp_path_factory.mktemp("triton"), variables=collector.variables)) as server:
        yield server


@pytest.fixture
async def js(nats_server):
    """A JetStream context on a freshly provisioned bus."""
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
    return connection(nats_server, s3_server, tmp_path)


@pytest.fixture
def bus_settings(nats_server, tmp_path):
    """Connection settings of a service that needs the bus only."""
    return connection(nats_server, None, tmp_path)
