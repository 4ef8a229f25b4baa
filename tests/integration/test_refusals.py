"""What the bus does not permit is said at once, with the identity, the subject and how it is granted."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients.training.bus import connected
from clients.training.connection import Connection as TrainingConnection
from clients.training.errors import PublishError
from contracts.envelope import source_of
from contracts.facts import CheckpointReady, ReleaseOpened
from contracts.services import INBOX
from deploy.identity.key_folder import KeyFolder
from shared.errors import Transient
from shared.messaging.bus import Bus, publish_event
from shared.messaging.provision import provision
from shared.messaging.refusals import NotPermitted
from shared.runtime.clock import SystemClock
from testbed import factories, forked
from testbed.servers import NatsServer, bus_variables, running
from testbed.stack import POLICY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("refusals") / "keys")
    folder.prepare(["127.0.0.1"], datetime.now(UTC))
    folder.add("admin", ["administrator"])
    folder.add("paula", ["publisher"], ["other-bot"])
    folder.add("victor", ["viewer"])
    stale = folder.server_config.read_text().replace(f'"{ReleaseOpened.TYPE}.*.registry", ', "")
    folder.server_config.write_text(stale)  # as of a version in which the registry did not publish it
    return folder


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory, keys):
    with running(NatsServer(tmp_path_factory.mktemp("nats"), keys)) as server:
        yield server


@pytest.fixture
async def js(nats_server):
    client = await nats_server.connect()
    context = client.jetstream(timeout=10)
    await provision(context)
    yield context
    await client.close()


def slipway(nats_server, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {**bus_variables(nats_server.settings(), user), "SLIPWAY_S3_ENDPOINT": "127.0.0.1:1"}
    command = [sys.executable, "-m", "clients.cli.main", *arguments]
    return forked.run(command, environment={**os.environ, **variables}, cwd=ROOT, timeout_s=60)


@pytest.mark.parametrize(
    ("user", "arguments", "subject", "grant"),
    [
        ("paula", ["events"], "$js.api.stream.list", "viewer, operator or approver"),
        ("paula", ["events", "--follow"], "$js.api.stream.list", "viewer, operator or approver"),
        (
            "victor",
            ["policy", "set", "support-bot", "POLICY"],
            "slipway.record.ordered.v1.support-bot.victor",
            "administrator",
        ),
    ],
)
@pytest.mark.usefixtures("js")
async def test_a_command_that_its_user_may_not_do_ends_with_what_it_takes(nats_server, user, arguments, subject, grant):
    policy = nats_server.folder / "policy.json"
    policy.write_text(json.dumps(POLICY))
    done = slipway(nats_server, user, *[str(policy) if text == "POLICY" else text for text in arguments])
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert re.match(rf"slipway: the bus does not permit {user} to (publish to|read) ", done.stderr), done.stderr
    assert subject in done.stderr, done.stderr
    assert f"it takes the role {grant}" in done.stderr
    assert done.stderr.count("\n") == 1


async def test_a_service_says_what_its_permissions_lack(js, nats_server, tmp_path):
    bus = Bus(nats_server.settings("registry"), "registry", SystemClock())
    await bus.connect()
    try:
        with pytest.raises(Transient, match="does not permit registry to publish") as refused:
            await publish_event(bus.js, factories.event(ReleaseOpened))
        assert "slipway keys init" in refused.value.reason
        with pytest.raises(NotPermitted):
            await bus.client.request("$JS.API.STREAM.DELETE.SLIPWAY_EVENTS", b"", timeout=30)
        assert (await js.account_info()).streams, "what is permitted still works"
    finally:
        await bus.stop()


async def test_a_publisher_of_another_model_is_told_so(js, nats_server):
    settings = nats_server.settings("paula")
    connection = TrainingConnection(
        nats_url=settings.nats_url, nats_credentials=str(settings.nats_credentials), nats_ca=str(settings.nats_ca)
    )
    event = factories.event(CheckpointReady, source=source_of("paula"))
    with pytest.raises(
        PublishError, match=rf"paula to publish .*{event.subject}.paula: it takes the role publisher of"
    ):
        async with connected(connection) as publisher:
            await publisher.publish(event)
    assert (await js.stream_info(INBOX)).state.messages == 0
