"""Two versions of one service side by side: no message is lost, and the older one leaves newer records to the newer one.

The newer one is a second checkout: this version with a declared change (`tests.kit.other_version`). Every record has the
next number and one more field, every event one more field.
"""

import asyncio
import itertools
import json

import httpx
import pytest

from clients.cli import dead_letters
from contracts.envelope import plain
from contracts.vocabulary import canonical_json
from services.notifier.domain.record import ModelNotices
from shared.runtime.exits import NEWER_RECORDS
from shared.storage.kv import Bucket
from testbed.ports import free_port
from tests.integration.notifier_process import alert, event, hook, notifier, until
from tests.kit.other_version import NEXT, make_next
from tests.kit.receivers import ReceiverServer

NEWER = f'"schema_version":{ModelNotices.SCHEMA_VERSION + 1}'.encode()
MODELS = ("ant", "bee", "cat")
WAIT_S = 90.0
"""An older process may have received a message three times before a newer one gets it, with longer waits each time."""


@pytest.fixture(scope="module")
def following(tmp_path_factory):
    return make_next(tmp_path_factory.mktemp("next"))


class Alerts:
    """Alerts of several models, published again and again as a newer monitor sends them."""

    def __init__(self, js):
        self._js = js
        self.sent = []

    async def run(self):
        for number in itertools.count():
            model = MODELS[number % len(MODELS)]
            body = plain(event(alert(f"{model}.v1.bf16/slow/{number}"), model=model))
            body["data"]["added_later"] = "of a newer monitor"
            subject = event(alert(), model=model).nats_subject
            await self._js.publish(subject, canonical_json(body))
            self.sent.append(body["data"]["alert_id"])
            await asyncio.sleep(0.25)


def version_at(port):
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2)
    except httpx.HTTPError:
        return None
    return answer.json()["version"] if answer.status_code == 200 else None


async def test_a_service_is_replaced_under_traffic_and_put_back_is_refused(js, bus_settings, following):
    notices, ports = Bucket(js, "notifications", ModelNotices), (free_port(), free_port())
    newer = {"PYTHONPATH": str(following), "PYTHONSAFEPATH": "1", "SLIPWAY_HTTP_PORT": str(ports[1])}
    alerts = Alerts(js)

    def notified():
        return {each.data["data"]["alert"]["alert_id"] for each in receiver.received}

    async def stored():
        return {key: (await notices.raw(key))[1] for key in await notices.keys()}

    with ReceiverServer() as receiver:
        sending = asyncio.create_task(alerts.run())
        with notifier(bus_settings, [hook(receiver)], SLIPWAY_HTTP_PORT=str(ports[0])) as old:
            await until(notified, "the first alert", WAIT_S)
            with notifier(bus_settings, [hook(receiver)], **newer) as new:
                await until(lambda: version_at(ports[1]) == NEXT, "the newer one beside it", WAIT_S)
                async with asyncio.timeout(WAIT_S):
                    while not any(NEWER in data for data in (await stored()).values()):
                        await asyncio.sleep(0.1)
                assert old.process.poll() is None, "an older one that runs goes on with what it knows"
                old.kill()
                old.start()  # as a node that restarts meanwhile
                assert await asyncio.to_thread(old.wait_until_dead, WAIT_S) == NEWER_RECORDS, old.log
                assert new.process.poll() is None
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                await until(lambda: set(alerts.sent) <= notified(), "every alert being told", WAIT_S)
        before = await stored()
        assert [data for data in before.values() if b'"added_later"' in data], "the newer form is stored"
        with notifier(bus_settings, [hook(receiver)]) as back:
            assert await asyncio.to_thread(back.wait_until_dead, WAIT_S) == NEWER_RECORDS
            assert "A newer version of notifier wrote" in back.log
        assert await stored() == before, "the attempt changed nothing"
    assert await dead_letters.list_all(js) == []
    assert json.loads(receiver.received[0].body)["type"] == "alert.raised"
