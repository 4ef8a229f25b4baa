"""The gateway as a process: its route, and its telemetry."""

import asyncio
import contextlib
from datetime import UTC, datetime

import httpx

from contracts.envelope import Event, nats_subject
from contracts.facts import InferenceBatch
from contracts.records import record_key
from contracts.routes import Route
from contracts.services import TELEMETRY
from shared.storage.kv import Bucket
from shared.storage.record_format import dump
from testbed.servers import wait_until
from tests.kit.drills import drill

HELLO = [{"role": "user", "content": "zebra giraffe"}]


ENVIRONMENTS = {"routes": "production", "staging-routes": "staging"}


SWITCHES = {"dead_text": "DEADTEXT", "mute_text": "MUTETEXT", "crash_text": "CRASHTEXT"}


async def put_route(js, gateway, route: Route, bucket: str = "routes") -> None:
    """Write a route and wait until this gateway has it."""
    routes, headers = Bucket(js, bucket, Route), {**gateway.headers, "x-slipway-environment": ENVIRONMENTS[bucket]}
    entry = await routes.get(route.model)
    await (routes.create(route.model, route) if entry is None else routes.update(route.model, route, entry.revision))
    name = f"{route.model}@v{route.active.target.version}"
    async with asyncio.timeout(60):
        async with httpx.AsyncClient(base_url=gateway.base_url, headers=headers) as http:
            while (await http.get(f"/v1/models/{name}")).status_code != 200:
                await asyncio.sleep(0.01)


async def telemetry(js, count: int, environment: str = "production"):
    """Wait for `count` records and give them, with their raw messages."""
    subject = nats_subject(InferenceBatch.TYPE, "*", "gateway", environment)
    subscription = await js.pull_subscribe(subject, stream=TELEMETRY)
    records, raw = [], b""
    async with asyncio.timeout(20):
        while len(records) < count:
            with contextlib.suppress(TimeoutError):
                for message in await subscription.fetch(10, timeout=1):
                    raw += message.data
                    records += Event[InferenceBatch].model_validate_json(message.data).data.records
    return records, raw.decode()


def checks(gateway) -> dict[str, str]:
    return gateway.get("/readyz").json()["checks"]


async def put_drill(js, gateway, served, *, lasts_s=60.0, environment="production", **changes):
    """Order a drill on a target and wait until this gateway has it."""
    active = drill(datetime.now(UTC), lasts_s=lasts_s, target=served.target, environment=environment, **changes)
    await (await js.key_value("drills")).put(record_key(environment, "toy"), dump(active))
    await asyncio.to_thread(wait_until, lambda: active.drill_id in checks(gateway)["drills"], what="knowing the drill")
    return active
