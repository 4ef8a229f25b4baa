"""What the containers run once before the services: bus and store are ready afterwards, however often it is run."""

from contracts.services import EVENTS, INBOX
from deploy.docker.prepare import prepare
from shared.storage.blobs import Store


async def test_bus_and_store_are_ready_also_the_second_time(js, settings):
    for stream in await js.streams_info():
        await js.delete_stream(stream.config.name)
    elsewhere = settings.model_copy(update={"s3_bucket": "another"})
    for _ in range(2):
        await prepare(elsewhere)
    assert {EVENTS, INBOX} <= {stream.config.name for stream in await js.streams_info()}
    assert Store(elsewhere).reachable()
