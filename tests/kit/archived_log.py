"""A bus, a store, and registries that archive the log and trim it."""

from datetime import timedelta

from contracts import facts as cf
from contracts.event_archive import BUCKET, KEY, EventArchive
from contracts.services import EVENTS
from decisions.event_archive import Keeping
from services.registry.adapters.event_archive import CONSUMERS, StoredEventSegments, StreamEventLog
from services.registry.event_archive import EventArchiver, Retain
from shared.messaging.bus import publish_event
from shared.provenance.event_archive import SignedIndexes, read_segment
from shared.storage.kv import Bucket
from testbed import factories as f
from testbed.attesters import attester, trust
from tests.kit.promoted import Clock

MODELS = ("shop-bot", "help-bot")


class ArchivedLog:
    """A bus, a store, and registries that archive the log."""

    def __init__(self, js, store, keys) -> None:
        self.js, self.store, self.keys = js, store, keys
        self.record = Bucket(js, BUCKET, EventArchive)
        self.clock = Clock()
        self.oldest = self.unaudited = None
        self.retain = Retain(timedelta(0), Keeping(timedelta(0), 0.7))

    def archiver(self):
        async def oldest():
            return self.oldest

        async def unaudited():
            return self.unaudited

        stored = StoredEventSegments(self.store, attester(self.keys, "registry"), trust(self.keys), lambda: None)
        log = StreamEventLog(lambda: self.js)
        return EventArchiver(log, self.record, stored, oldest, unaudited, self.retain, self.clock)

    async def archive(self):
        await self.archiver().sweep(KEY)
        return (await self.record.get(KEY)).value

    async def publish(self, count, fact=cf.WindowSummarised):
        for number in range(count):
            event = f.event(fact, id=f"{fact.__name__}-{self.published}", subject=MODELS[number % 2])
            await publish_event(self.js, event)
            self.published += 1

    published = 0

    async def acknowledge(self):
        """Let every service read all."""
        for name in CONSUMERS:
            pull = await self.js.pull_subscribe_bind(consumer=name, stream=EVENTS)
            while (await self.js.consumer_info(EVENTS, name)).num_pending:
                for message in await pull.fetch(50, timeout=5):
                    await message.ack_sync()

    async def first(self):
        return (await self.js.stream_info(EVENTS)).state.first_seq

    def index(self, archive, number):
        return self.signed(archive, number).proven()

    def signed(self, archive, number):
        return SignedIndexes(self.store, trust(self.keys).keys).find(archive.id, number)

    def archived(self, archive):
        return [m for n in range(1, archive.segment) for m in read_segment(self.store, self.index(archive, n))]
