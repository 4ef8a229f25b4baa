"""Ten times the telemetry that a monitor can take: the bus drops the oldest, no alert is raised, detection goes on."""

import asyncio
import json
import urllib.request
import uuid

from contracts import facts as f
from contracts.envelope import CONTENT_TYPE, nats_subject
from contracts.services import TELEMETRY
from testbed import factories as k
from testbed.services import running_service, stored_facts
from tests.integration.monitor_process import MODULE, batch, envelope, live, publish, record, slow

RECORDS, BATCHES = 200, 300
STREAM_BYTES = 2 * 1024 * 1024


def numbered(text: str, number: int) -> bytes:
    """Return the batch as another one, of other requests."""
    return text.replace("BATCH", f"batch-{number}").replace("request-", f"request-{number}-").encode()


def shed(settings) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.http_port}/metrics/", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("slipway_telemetry_shed_messages "))


async def test_a_flood_of_telemetry_is_shed_and_raises_no_alert(js, settings):
    stream = (await js.stream_info(TELEMETRY)).config
    stream.max_bytes = STREAM_BYTES
    await js.update_stream(stream)
    with running_service(MODULE, settings, MONITOR_SWEEP_S="0.2"):
        await live(js)
        records = [record(request_id=f"request-{number}") for number in range(RECORDS)]
        text = json.dumps(envelope(batch(records), event_id="BATCH").model_dump(mode="json", exclude_none=True))
        subject = nats_subject(f.InferenceBatch.TYPE, k.MODEL, "gateway")
        for first in range(0, BATCHES, 20):
            sent = [
                js.publish(
                    subject,
                    numbered(text, number),
                    headers={"content-type": CONTENT_TYPE, "Nats-Msg-Id": uuid.uuid4().hex},
                )
                for number in range(first, first + 20)
            ]
            await asyncio.gather(*sent)
        dropped = (await js.stream_info(TELEMETRY)).state.first_seq - 1
        assert dropped > BATCHES * 0.5, "it is more than the stream takes"
        async with asyncio.timeout(90):
            while not (alerts := await stored_facts(js, f.AlertRaised)):
                await publish(js, batch([slow() for _ in range(4)]))
                await asyncio.sleep(0.5)
        (raised,) = alerts
        assert raised.data.trigger == "slow-first-token", "of what is slow, behind all that is left of the flood"
        async with asyncio.timeout(30):
            while not 0 < await asyncio.to_thread(shed, settings) <= dropped + 10:
                await asyncio.sleep(0.5)
    assert [alert.data.kind for alert in await stored_facts(js, f.AlertRaised)] == ["latency"]
