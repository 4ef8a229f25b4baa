"""What must hold of a stack on which nothing is killed any more: read from the bus, the store and the parts."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence

from nats.js import JetStreamContext
from nats.js.errors import NoKeysError

from clients.cli.connection import connected, find_stack
from clients.cli.events.dead_letters import list_all
from contracts.services import EVENTS, INBOX, ORDERS
from shared.errors import SlipwayError
from shared.messaging.topology import BUCKETS
from testbed.soak.log_view import AWAY
from testbed.stack import Stack

Problems = list[str]
SHOW_EVERY_S = 15.0
LEASE_S = 8.0
"""Seconds within which a lease is renewed, or taken from a holder that died (after six)."""


def wait_until_none(look: Callable[[], Problems], timeout_s: float, show_line: Callable[[str], None]) -> Problems:
    """Look until there is no problem; return those that are left when the time is over."""
    began = shown_s = time.monotonic()
    deadline = began + timeout_s
    while True:
        try:
            problems = look()
        except AWAY as error:
            problems = [f"the installation cannot be read: {error!r}"]
        if not problems or time.monotonic() > deadline:
            return problems
        if time.monotonic() - shown_s > SHOW_EVERY_S:
            shown_s = time.monotonic()
            show_line(f"waiting for {len(problems)}: {problems[0]}")
        time.sleep(1.0)


def parts_that_are_not_ready(stack: Stack) -> Problems:
    """Return the parts that are not ready, and why."""
    rows = stack.table()["parts"]
    return [f"{row['name']} is {row['state']}: {row['why'] or row['ended']}" for row in rows if row["state"] != "ready"]


def work_that_waits(stack: Stack) -> Problems:
    """Return the messages that no consumer has acknowledged, and records whose facts are not published."""
    return _on_bus(stack, _find_waiting)


async def _find_waiting(js: JetStreamContext) -> Problems:
    consumers = [each for stream in (INBOX, ORDERS, EVENTS) for each in await js.consumers_info(stream)]
    problems = [
        f"{each.config.durable_name} has {each.num_pending} messages to come and {each.num_ack_pending} that are not "
        "acknowledged"
        for each in consumers
        if each.config.durable_name and (each.num_pending or each.num_ack_pending)
    ]
    for bucket in BUCKETS:
        for key, record in (await read_bucket(js, bucket)).items():
            if record.get("outbox"):
                problems.append(f"{bucket}/{key} has {len(record['outbox'])} facts that are not published")
    return problems


async def read_bucket(js: JetStreamContext, name: str) -> dict[str, dict]:
    """Return the records of a bucket as they are stored."""
    bucket = await js.key_value(name)
    try:
        keys = await bucket.keys()
    except NoKeysError:
        return {}
    values = [(key, json.loads((await bucket.get(key)).value or b"null")) for key in keys]
    return {key: value for key, value in values if isinstance(value, dict)}


def leases_that_are_stuck(stack: Stack) -> Problems:
    """Return what server-manager still holds or owes: staging leases, orders, a lease that nothing renews."""
    return _on_bus(stack, _find_stuck)


async def _find_stuck(js: JetStreamContext) -> Problems:
    problems = await _leases_without_a_living_holder(js)
    for key, record in (await read_bucket(js, "servers")).items():
        problems += [f"servers/{key}: {field} has {record[field]}" for field in ("lease",) if record.get(field)]
        problems += [
            f"servers/{key}: {len(record[field])} in {field}" for field in ("waiting", "orders") if record.get(field)
        ]
    return problems


async def _leases_without_a_living_holder(js: JetStreamContext) -> Problems:
    """Return the leases that nothing renews: their holder writes them every two seconds, or another one takes them."""
    bucket = await js.key_value("servers")
    keys = [key for key in await bucket.keys() if key.endswith(".leader")]
    before = {key: (await bucket.get(key)).revision for key in keys}
    await asyncio.sleep(LEASE_S)
    problems = [] if keys else ["servers: no server-manager has ever held the lease"]
    for key in keys:
        entry = await bucket.get(key)
        if not json.loads(entry.value or b"{}").get("holder"):
            problems.append(f"servers/{key}: no server-manager holds the lease")
        elif entry.revision == before[key]:
            problems.append(f"servers/{key}: nothing renewed the lease for {LEASE_S:g} s")
    return problems


def dead_letters(stack: Stack) -> Problems:
    """Return the dead letters."""

    async def read(js: JetStreamContext) -> Problems:
        return [
            f"dead letter of {each.service}, {each.subject}: {each.code}: {each.reason}" for each in await list_all(js)
        ]

    return _on_bus(stack, read)


def _on_bus(stack: Stack, read: Callable) -> Problems:
    async def run() -> Problems:
        async with connected(find_stack(stack.state)) as client:
            return await read(client.jetstream(timeout=10))

    return asyncio.run(run())


def half_artifacts(stack: Stack) -> tuple[int, Problems]:
    """Return how many files of committed manifests are intact, and which manifests are not whole."""
    try:
        return stack.check_artifacts(), []
    except SlipwayError as error:
        return 0, [f"a committed manifest names a file that is not intact: {error}"]


def unproven_versions(stack: Stack, models: Sequence[str]) -> Problems:
    """Return the active versions that `slipway verify` does not prove."""
    problems = []
    for model in models:
        done = stack.slipway("verify", f"{model}@active")
        if done.returncode != 0:
            problems.append(f"slipway verify {model}@active: {done.stdout.strip()[-300:]} {done.stderr.strip()[-300:]}")
    return problems


def what_gc_says(stack: Stack) -> Problems:
    """Return why `slipway gc` cannot account for the objects of the store."""
    done = stack.slipway("gc")
    return [] if done.returncode == 0 else [f"slipway gc: {done.stderr.strip()[-300:]}"]
