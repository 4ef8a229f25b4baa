"""A log, a record and a store in memory, and registries that archive the log."""

from datetime import timedelta

from contracts.event_archive import KEY, EventArchive
from contracts.facts import WindowSummarised
from decisions.event_archive import Keeping
from services.registry.adapters.event_archive import StoredEventSegments
from services.registry.event_archive import EventArchiver, Retain
from shared.provenance.event_archive import SignedIndexes, read_segment
from shared.runtime.clock import SystemClock
from testbed.attesters import attester, attester_keys, trust
from tests.kit.fakes_event_log import FakeEventLog
from tests.kit.objects import Objects
from tests.kit.promoted import Clock
from tests.kit.records import MemoryRecords

MODELS = ("shop-bot", "help-bot")
FOREVER = timedelta(days=10_000)


class ArchiveWorld:
    """A log, a record, a store, and registries that archive the log; nothing holds what is archived in it."""

    def __init__(self, keys):
        self.keys, self.log, self.store, self.clock = keys, FakeEventLog(), Objects(), Clock()
        self.record = MemoryRecords(EventArchive)
        self.published, self.every, self.reports = 0, timedelta(0), []

    def publish(self, count):
        for _ in range(count):
            self.published += 1
            body = f'{{"n":{self.published}}}'.encode()
            self.log.publish(
                f"{WindowSummarised.TYPE}.{MODELS[self.published % 2]}.monitor", body, f"id-{self.published}"
            )

    def registry_key(self):
        return attester(self.keys, "registry")

    def distrust(self):
        """Revoke the registry's key; it is restarted with a new one."""
        attester_keys(self.keys).revoke("registry", SystemClock().now())

    async def archive(self, age=timedelta(0)):
        async def none():
            return None

        segments = StoredEventSegments(self.store, self.registry_key(), trust(self.keys), lambda: None)
        retain = Retain(self.every, Keeping(age, 0.7))
        await EventArchiver(self.log, self.record, segments, none, none, retain, self.clock).sweep(KEY)
        return await self.state()

    def indexes(self):
        return SignedIndexes(self.store, trust(self.keys).keys, self.reports.append)

    def archived(self, archive, number):
        return self.read(self.indexes(), archive, number)

    def read(self, indexes, archive, number):
        return read_segment(self.store, indexes.require(archive.id, number))

    async def state(self):
        return (await self.record.get(KEY)).value
