"""The fleet's metrics are those of the record, whoever wrote it."""

import asyncio
import contextlib

from prometheus_client import CollectorRegistry

from contracts.vocabulary import digest_of
from services.server_manager.domain.records import LoadedTarget, OpenAlert, Servers, TargetCopies
from services.server_manager.fleet_state import FleetState
from services.server_manager.main import read_for_metrics
from services.server_manager.metrics import FleetMetrics, show_agents
from shared.messaging.records import RecordStore
from testbed import factories as f
from tests.kit.records import MemoryBucket, MemoryPublisher, MemoryRecords


def store(bucket, note=None):
    records = MemoryRecords(Servers, bucket)
    return RecordStore("servers", records, MemoryPublisher("server-manager"), service="server-manager", note=note)


def loaded(version, phase="ready", memory_bytes=100):
    return LoadedTarget(
        target=f.target(version), manifest_digest=digest_of(b"x"), phase=phase, memory_bytes=memory_bytes
    )


async def test_one_that_does_not_lead_shows_what_the_leader_wrote():
    bucket, registry = MemoryBucket(), CollectorRegistry()
    leader = store(bucket)
    follower = FleetState(store(bucket, FleetMetrics(registry).note), "main")
    reading = asyncio.create_task(read_for_metrics(follower, every_s=0.0))
    alert = OpenAlert(target=f.target(2), raised_at=f.after(0), message="silent")
    record = Servers(loaded=(loaded(1), loaded(2, "failed", 50)), memory_budget_bytes=400, alerts=(alert,))
    for written in (record, record.model_copy(update={"loaded": (loaded(1),), "alerts": ()})):
        await leader.write("main", lambda _, written=written: written)
        ready = len([target for target in written.loaded if target.phase == "ready"])
        for _ in range(100):
            await asyncio.sleep(0)
        assert registry.get_sample_value("slipway_targets", {"phase": "ready"}) == ready
        assert registry.get_sample_value("slipway_targets", {"phase": "failed"}) == len(written.loaded) - ready
        reserved = sum(target.memory_bytes for target in written.loaded)
        assert registry.get_sample_value("slipway_fleet_memory_reserved_bytes") == reserved
        labels = {"environment": "production", "kind": "engine", "severity": "critical"}
        assert registry.get_sample_value("slipway_alerts_open", labels) == len(written.alerts)
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading


def test_copies_are_counted_and_their_memory_is_that_of_their_target():
    registry, version = CollectorRegistry(), f.target(1)
    copies = TargetCopies(target=version, asked=3, serving=2, memory_bytes=100)
    FleetMetrics(registry).note("main", Servers(loaded=(loaded(1),), copies=(copies,)))
    about = {"target": str(version)}
    assert registry.get_sample_value("slipway_target_copies", about | {"count": "asked"}) == 3
    assert registry.get_sample_value("slipway_target_copies", about | {"count": "serving"}) == 2
    assert registry.get_sample_value("slipway_target_memory_bytes", about) == 200
    assert registry.get_sample_value("slipway_fleet_memory_reserved_bytes") == 200


def test_a_process_that_was_superseded_shows_no_agent_as_silent():
    registry, leads, answers = CollectorRegistry(), True, True
    show_agents(registry, {"default": lambda: answers, "next": lambda: True}, lambda: not leads)

    def shown():
        return [registry.get_sample_value("slipway_agent_answers", {"runtime": name}) for name in ("default", "next")]

    assert shown() == [1, 1]
    answers = False
    assert shown() == [0, 1]
    leads = False  # what it saw last would be shown for ever, and another process asks by now
    assert shown() == [1, 1]
