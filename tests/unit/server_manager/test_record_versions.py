"""Older versions of the fleet's record are read, and mean the same."""

import json

import pytest

from contracts.routes import Route
from contracts.vocabulary import ServingSettings
from services.gateway.adapters.record_file import RecordFile
from services.server_manager.adapters.repository_files import RoutesFile
from services.server_manager.domain.reconcile import Phase
from services.server_manager.domain.records import Servers
from shared.errors import Transient
from shared.storage.compare_and_set import edit_record
from shared.storage.record_format import dump, parse
from tests.kit.records import MemoryRecords
from tests.unit.server_manager.factories import deployable, served

HERMES = ServingSettings(tool_parser="hermes")

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


ROUTE_1 = {
    "schema_version": 1,
    "model": "bot",
    "epoch": 3,
    "active": {
        "target": {"model": "bot", "version": 1, "variant": "bf16"},
        "manifest": deployable(1).manifest.model_dump(),
        "weights_bytes": 5,
        "serving": {"context_tokens": 512, "tensor_parallel_size": None, "options": {}},
        "endpoints": ["127.0.0.1:8001"],
    },
}


def test_a_route_from_before_parsers_and_template_options_is_read_and_written_in_the_new_version():
    route, version = parse(Route, json.dumps(ROUTE_1).encode(), "routes/bot")
    assert version == 1 < Route.SCHEMA_VERSION
    assert route.active.serving == ServingSettings(context_tokens=512)
    assert parse(Route, dump(route), "routes/bot") == (route, Route.SCHEMA_VERSION)


async def test_a_process_that_knows_no_parsers_does_not_write_a_route_with_them():
    """It is a process from before: its class of routes has version 1."""

    class OldRoute(Route):
        SCHEMA_VERSION = 1

    bucket = MemoryRecords(OldRoute)
    new = Route(model="bot", epoch=3, active=served(1).model_copy(update={"serving": HERMES}))
    bucket.bucket.data["bot"] = (1, dump(new))
    with pytest.raises(Transient) as caught:
        await edit_record(bucket, "bot", lambda old: old.model_copy(update={"epoch": 4}), name="routes/bot")
    assert caught.value.code == "record_too_new"
    version = Route.SCHEMA_VERSION
    assert f"has schema version {version}; this process writes versions up to 1" in caught.value.reason
    assert parse(Route, bucket.bucket.data["bot"][1], "routes/bot")[0].active.serving == HERMES


@pytest.mark.parametrize("kind", [RoutesFile, lambda folder: RecordFile(folder / "slipway-routes.json", Route)])
def test_saved_routes_carry_their_version_and_one_of_a_newer_version_is_not_acted_on(tmp_path, kind):
    path, route = tmp_path / "slipway-routes.json", Route(model="bot", epoch=3, active=served(1))
    kind(tmp_path).save({"bot": route, "cat": route})
    saved = json.loads(path.read_text())
    assert saved["bot"]["schema_version"] == Route.SCHEMA_VERSION
    del saved["bot"]["schema_version"]
    saved["cat"]["schema_version"] = Route.SCHEMA_VERSION + 1
    path.write_text(json.dumps({**saved, "dog": 7, "eel": {"epoch": {}}}))
    assert kind(tmp_path).load() == {"bot": route}
    for damaged in ("[" * 100_000, "[]", "", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        path.write_text(damaged)
        assert kind(tmp_path).load() == {}
