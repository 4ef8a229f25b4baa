"""Reads that never answer take one thread each, however often they are tried."""

import asyncio
import threading

import pytest

from services.registry.adapters.store import StoredArtifacts
from shared.errors import Permanent
from testbed.attesters import attester, trust
from tests.kit import fakes_registry as k


class Hanging:
    """A store that answers once it is let."""

    def __init__(self):
        self.let = threading.Event()
        self.begun = 0
        self.refusal = None

    def get(self, _ref):
        self.begun += 1
        self.let.wait(20)
        if self.refusal is not None:
            raise self.refusal

    def put_manifest(self, _key, manifest):
        return k.ref(manifest.model), True


async def timed_out(reading):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await reading


@pytest.fixture
def store():
    store = Hanging()
    yield store
    store.let.set()


async def test_a_read_that_hangs_is_not_begun_again_and_its_answer_counts(store, tmp_path):
    artifacts = StoredArtifacts(store, attester(tmp_path, "registry"), trust(tmp_path))
    for _ in range(5):
        await timed_out(artifacts.verify(k.ref("checkpoints/m/a")))
    assert store.begun == 1
    store.refusal = Permanent("digest_mismatch", "No.")
    store.let.set()
    with pytest.raises(Permanent):
        await artifacts.verify(k.ref("checkpoints/m/a"))
    store.refusal = None
    await artifacts.verify(k.ref("checkpoints/m/a"))


async def test_reads_that_hang_leave_threads_for_everything_else(store, tmp_path):
    artifacts = StoredArtifacts(store, attester(tmp_path, "registry"), trust(tmp_path))
    await asyncio.gather(*(timed_out(artifacts.verify(k.ref(f"checkpoints/m{number}/a"))) for number in range(60)))
    async with asyncio.timeout(5):
        await asyncio.to_thread(lambda: None)
    assert store.begun <= 32
