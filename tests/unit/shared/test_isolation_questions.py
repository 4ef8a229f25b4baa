"""Every service learns that its server is cut off: from what it may ask, whether it has a bucket or not."""

import asyncio
import json
from urllib.parse import urlparse

import nats.errors
import pytest
from nats.js import JetStreamContext

from contracts.services import SERVICES
from decisions.access.bus_permissions import service_permissions
from shared.messaging.isolation import EVERY_S, SILENT_S, Isolation, question
from tests.kit.virtual_time import virtual_time

WITHOUT_BUCKET = ("merger", "quantiser", "benchmarker")
FACTS = {
    "config": {"name": "x"},
    "created": "2026-03-04T00:00:00Z",
    "state": {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 0},
    "name": "x",
    "stream_name": "x",
}
MISSING = {"error": {"code": 404, "err_code": 10014, "description": "consumer not found"}}


def led_by(leader, *silent_s):
    peers = [{"name": f"n{number}", "active": int(age * 1e9)} for number, age in enumerate(silent_s)]
    return {**FACTS, "cluster": {"name": "slipway", "leader": leader, "replicas": peers}}


class Message:
    """What a request returns."""

    def __init__(self, answer):
        self.data = json.dumps(answer).encode()


class Connection:
    """The connection of a client to a server of a cluster; notes what it asks, and when it is told to leave."""

    is_connected, is_closed = True, False

    def __init__(self, answer=None):
        self._server_info = {"server_name": "own", "cluster": "slipway"}
        self._reconnect_to_server_handler = None
        self.answer, self.asked, self.left_s = answer, [], []
        self.connected_url = urlparse("nats://a:4222")

    async def request(self, subject, _data, *, timeout):
        self.asked.append(subject)
        if self.answer is None:
            await asyncio.sleep(timeout)
            raise nats.errors.TimeoutError
        return Message(self.answer)

    async def force_reconnect(self):
        self.left_s.append(asyncio.get_running_loop().time())


async def watch(connection, service, for_s):
    ask = question(JetStreamContext(connection, timeout=EVERY_S), SERVICES[service])
    watching = asyncio.create_task(Isolation(connection, ask).watch())
    await asyncio.sleep(for_s)
    connection.is_closed = True
    await watching


@pytest.mark.parametrize("service", SERVICES)
@virtual_time
async def test_each_service_asks_what_it_is_permitted_to_ask(service):
    connection = Connection(led_by("other", 0.1, 0.1))
    await watch(connection, service, EVERY_S + 1)
    (subject,) = set(connection.asked)
    assert subject in service_permissions(SERVICES[service]).publish
    assert subject.startswith("$JS.API.CONSUMER.INFO." if service in WITHOUT_BUCKET else "$JS.API.STREAM.INFO.KV_")


@pytest.mark.parametrize("service", ["monitor", *WITHOUT_BUCKET])
@virtual_time
async def test_a_service_leaves_a_server_that_hears_of_no_other_one(service):
    connection = Connection(led_by("own", 60, 60))
    await watch(connection, service, EVERY_S + 1)
    assert connection.left_s[0] == EVERY_S


@pytest.mark.parametrize("service", ["monitor", *WITHOUT_BUCKET])
@virtual_time
async def test_a_service_leaves_a_server_that_does_not_answer(service):
    connection = Connection()
    await watch(connection, service, SILENT_S + 3 * EVERY_S)
    assert len(connection.left_s) == 1
    assert SILENT_S < connection.left_s[0] <= SILENT_S + 2 * EVERY_S


@pytest.mark.parametrize("answer", [led_by("own", 60, 0.1), led_by("other", 60, 60), MISSING])
@pytest.mark.parametrize("service", ["monitor", *WITHOUT_BUCKET])
@virtual_time
async def test_a_service_stays_where_the_others_are_heard_of_or_what_it_asks_about_is_missing(service, answer):
    connection = Connection(answer)
    await watch(connection, service, 10 * SILENT_S)
    assert connection.left_s == []
