"""Older versions of the fleet's record are read, and mean the same."""

import json

import pytest

from services.server_manager.domain.reconcile import Phase
from services.server_manager.domain.records import Servers
from shared.storage.record_format import dump, parse
from tests.unit.server_manager.factories import deployable

PHASES = {"bot.v1.bf16": "hot", "bot.v2.bf16": "loading", "bot.v3.bf16": "failed"}
VERSION_1 = {
    "schema_version": 1,
    "outbox": [],
    "endpoint": "127.0.0.1:8001",
    "server_ready": True,
    "memory_budget_bytes": 1000,
    "loaded": [
        {
            "target": {"model": "bot", "version": number, "variant": "bf16"},
            "manifest_digest": deployable(number).manifest.digest,
            "phase": phase,
            "memory_bytes": 200,
            "reason": "",
        }
        for number, phase in enumerate(PHASES.values(), 1)
    ],
    "lease": None,
    "waiting": [],
    "orders": [],
    "closed": [],
    "alerts": [],
    "temporary": [{"model": "bot", "version": 2, "variant": "bf16"}],
}
VERSION_2 = {**VERSION_1, "schema_version": 2, "answered": ["order-1"]}


@pytest.mark.parametrize(("stored", "answered"), [(VERSION_1, ()), (VERSION_2, ("order-1",))])
def test_a_record_of_an_older_version_is_read_and_a_target_that_generates_is_ready(stored, answered):
    record, version = parse(Servers, json.dumps(stored).encode(), "servers/fleet")
    assert version == stored["schema_version"]
    phases = {str(target.target): target.phase for target in record.loaded}
    assert phases == {**PHASES, "bot.v1.bf16": Phase.READY}
    assert (record.endpoint, record.answered) == ("127.0.0.1:8001", answered)
    assert [str(target) for target in record.temporary] == ["bot.v2.bf16"]
    assert parse(Servers, dump(record), "servers/fleet") == (record, Servers.SCHEMA_VERSION)


def test_a_record_without_targets_is_read():
    record, _ = parse(Servers, b'{"schema_version": 2}', "servers/fleet")
    assert record == Servers()
