"""What is watched after a loss: status and doctor read the records, and a bucket of staging stops nothing."""

import json

import pytest

from clients.cli.watched import read_blind
from contracts.services import EVENTS
from shared.messaging.provision import provision
from shared.storage.route_buckets import RouteBuckets
from testbed import factories as f
from testbed.servers import NatsServer, running

ALERT = {"kind": "blind", "message": "All telemetry was ignored."}


@pytest.fixture
async def js(tmp_path):
    with running(NatsServer(tmp_path)) as server:
        client = await server.connect()
        context = client.jetstream(timeout=10)
        await provision(context)
        yield context
        await client.close()


async def keep(js, bucket, key, **fields):
    await js.publish(f"$KV.{bucket}.{key}", json.dumps({"schema_version": 1, **fields}).encode())


async def test_what_is_not_watched_is_known_without_the_log(js):
    await keep(js, "alerts", f"production.{f.MODEL}", alerts={"a": ALERT, "b": {**ALERT, "open": False}})
    await keep(js, "alerts", "production.another", alerts={"a": {**ALERT, "message": "No policy is known."}})
    await keep(js, "alerts", "staging.another", alerts={"a": ALERT})
    await js.purge_stream(EVENTS)
    assert sorted(await read_blind(js)) == ["All telemetry was ignored.", "No policy is known."]
    assert await read_blind(js, f.MODEL) == ["All telemetry was ignored."]
    assert await read_blind(js, "unheard-of") == []


async def test_a_damaged_record_is_named(js):
    await js.publish(f"$KV.alerts.production.{f.MODEL}", b"{")
    (sentence,) = await read_blind(js)
    assert f"alerts/production.{f.MODEL}" in sentence


async def test_a_deleted_bucket_of_staging_leaves_the_routes_of_production(js):
    await js.delete_key_value("staging-routes")
    routes = RouteBuckets(lambda: js, "monitor")
    await js.publish(f"$KV.routes.{f.MODEL}", b"{}")
    assert [await routes.models(environment) for environment in ("staging", "production")] == [[], [f.MODEL]]
