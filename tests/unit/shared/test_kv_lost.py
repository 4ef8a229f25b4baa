"""What a write is answered whose bucket is gone."""

import asyncio
from types import SimpleNamespace

import pytest
from nats.js.errors import NoStreamResponseError

from shared.messaging.patience import ELECTION_S
from shared.storage.kv import Bucket
from tests.kit.records import Tally
from tests.kit.virtual_time import virtual_time


class WithoutStream:
    """A bus that has the stream of no bucket, or none with a leader."""

    _nc = SimpleNamespace(max_payload=1 << 20)

    async def publish(self, *_arguments, **_options):
        raise NoStreamResponseError


@virtual_time
async def test_an_update_waits_for_a_leader_where_the_bucket_is_gone():
    bucket = Bucket(WithoutStream(), "alerts", Tally)
    with pytest.raises(NoStreamResponseError):
        await bucket.update("bot", Tally(causes=("a",)), 3)
    assert ELECTION_S <= asyncio.get_running_loop().time() < ELECTION_S + 1
