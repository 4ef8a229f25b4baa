"""From a fault of the active version to all traffic on the previous one, by the monitor, on real parts.

NATS, Triton with two toy versions, a gateway, the monitor and the rollback-controller with their own settings. In each
round a fresh model serves four requests a second for five seconds; then its active version begins to fail:

- dead for good: its engine dies of one prompt, and reports it for each request from then on;
- query of death: a client sends that prompt every second to the model, also after traffic has moved;
- dies of one in ten: one prompt in ten is such a prompt, and the engine is loaded again two seconds after each;
- one prompt in ten fails;
- all slow: the first token takes four seconds more (a drill in the gateway);
- both slow: the same of each version that serves, so that the move changes nothing: traffic moves once;
- rolling restart: two Tritons serve both versions, and are restarted one after the other: traffic stays.

Seconds from the first bad request until the alert is raised, and until the last request was sent that did not go to
the previous version; requests of others that failed; moves to the previous version. Each of the last two faults is
watched for 30 s more. Run: python -m benchmarks.bench_faults [--rounds N] [--only FAULT]
"""

import argparse
import asyncio
import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from benchmarks.parts import Parts, quantile, show_table, toy_parts, until
from contracts import facts as f
from contracts.drills import Drill
from contracts.envelope import Event
from contracts.policy import Trigger
from contracts.records import record_key
from contracts.routes import Route, ServedTarget
from services.monitor.domain.record import MonitorState
from shared.messaging.bus import publish_event
from shared.storage.kv import Bucket
from shared.storage.record_format import dump
from testbed import factories as k
from testbed.gateway import load_toy, order
from testbed.servers import S3Server, connection, running
from testbed.services import running_service, stored_facts
from testbed.triton import TritonServer

RATE_RPS, BEFORE_S, LONGEST_S, SETTLED = 4.0, 5.0, 120.0, 12
WATCH_S, RELOAD_S = 30.0, 2.0
DEATHS, BOTH_SLOW, RESTART = "dies of one in ten", "both slow", "rolling restart"
FAULTS = {
    "dead for good": 2.0,
    "query of death": 10.0,
    DEATHS: 10.0,
    "one prompt in ten fails": 120.0,
    "all slow": 20.0,
    BOTH_SLOW: 20.0,
    RESTART: 0.0,
}
"""With the most seconds until the alert; 0: nothing moves traffic."""
KILLS, FAILS = "kill this engine", "this prompt fails"
TRIGGERS = (
    Trigger(name="slow", metric="ttft_ms", threshold=2000.0, allowed_ratio=0.05),
    Trigger(name="errors", metric="error_ratio", threshold=0.02),
)


@dataclass
class Sent:
    """A request: when it was sent, in seconds since the epoch, the version that answered it, and its status."""

    at_s: float
    prompt: str
    version: str = ""
    status: int = 0


@dataclass
class Client:
    """Sends prompts to a model at a steady rate, whether or not earlier ones were answered."""

    http: httpx.AsyncClient
    model: str
    fault: str = ""
    sent: list[Sent] = field(default_factory=list)

    def prompt(self, number: int) -> str:
        """Return the next prompt."""
        if self.fault == "one prompt in ten fails" and number % 10 == 0:
            return f"{FAILS} {number}"
        if self.fault == "query of death" and number % int(RATE_RPS) == 0:
            return KILLS
        if self.fault == DEATHS and number % 10 == 0:
            return f"{KILLS} {number}"
        return f"say {number}"

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            number, due = 0, time.monotonic()
            while True:
                number, due = number + 1, due + 1.0 / RATE_RPS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self.send(self.prompt(number)))

    async def send(self, prompt: str) -> None:
        """Send one request and record its answer."""
        sent = Sent(time.time(), prompt)
        self.sent.append(sent)
        with contextlib.suppress(httpx.HTTPError):
            body = {"model": self.model, "prompt": prompt, "max_tokens": 4}
            answer = await self.http.post("/v1/completions", json=body)
            sent.status, sent.version = answer.status_code, answer.headers.get("x-slipway-release", "")

    def ordinary(self, since_s: float = 0.0) -> list[Sent]:
        """Return the ended requests since a time, but for the prompts that kill."""
        return [sent for sent in self.sent if sent.at_s >= since_s and sent.status and KILLS not in sent.prompt]


@dataclass(frozen=True)
class Round:
    """Seconds since the first bad request, how many of the others' requests failed, and how often traffic moved."""

    alert_s: float
    moved_s: float
    failed: int
    moves: int


async def publish(parts: Parts, fact: f.Fact, model: str) -> None:
    await publish_event(
        parts.js,
        Event[type(fact)](
            id=str(uuid.uuid4()),
            source=k.source_for(type(fact)),
            type=fact.TYPE,
            subject=model,
            time=datetime.now(UTC),
            correlationid="r-2",
            data=fact,
        ),
    )


def load(engines: Sequence[TritonServer], model: str, fault: str = "") -> dict[int, ServedTarget]:
    """Load two versions of a model on each engine, and return them; the second one fails, of a query of death both."""
    served: dict[int, ServedTarget] = {}
    first = {"dead_text": KILLS} if fault == "query of death" else {}
    for version, switches in ((1, first), (2, {"dead_text": KILLS, "fail_text": FAILS})):
        loaded = [load_toy(engine, model, version, **switches) for engine in engines]
        endpoints = tuple(engine.endpoint for engine in engines)
        served[version] = loaded[0].model_copy(update={"endpoints": endpoints})
    return served


async def serve(parts: Parts, model: str, engines: Sequence[TritonServer], fault: str) -> Route:
    """Load two versions of a model, declare their triggers, and send its traffic to the second one."""
    toy = await asyncio.to_thread(load, engines, model, fault)
    for version in (1, 2):
        policy = k.policy(triggers=TRIGGERS)
        opened = k.fact(f.ReleaseOpened, version=version, model=model, release_id=f"r-{version}", policy=policy)
        await publish(parts, opened, model)
    route = Route(model=model, epoch=1, active=toy[2], previous=toy[1], cause_id="before")
    await Bucket(parts.js, "routes", Route).create(model, route)
    await publish(parts, f.DeploymentChanged(route=route, cause="promote", at=datetime.now(UTC)), model)
    records = Bucket(parts.js, "alerts", MonitorState)

    async def is_watched() -> bool:
        entry = await records.get(f"production.{model}")
        return entry is not None and str(toy[2].target) in entry.value.targets and "2" in entry.value.policies

    await until(is_watched)
    return route


async def slow_down(parts: Parts, model: str, version: int = 2) -> None:
    """Let a version answer late from now on."""
    now = datetime.now(UTC)
    drill = Drill(
        drill_id=f"drill-{model}-{version}",
        target=k.target(version, "bf16", model),
        environment="production",
        fault=f.DrillFault(delay_ms=4000),
        share_ratio=1.0,
        starts_at=now,
        expires_at=now + timedelta(seconds=2 * LONGEST_S),
        actor="bench",
        reason="bench_faults",
    )
    await (await parts.js.key_value("drills")).put(record_key("production", model), dump(drill))


async def slow_down_both(parts: Parts, model: str) -> None:
    """Let whichever version serves answer late, until cancelled."""
    routes, slow = Bucket(parts.js, "routes", Route), 0
    while True:
        entry = await routes.get(model)
        active = entry.value.active.target.version if entry is not None and entry.value.active is not None else 0
        if active != slow:
            slow = active
            await slow_down(parts, model, active)
        await asyncio.sleep(0.02)


async def load_again(parts: Parts, client: Client) -> None:
    """Load the version that dies again some time after each prompt that kills it, until cancelled."""
    name, deaths = k.target(2, "bf16", client.model).triton_name, 0
    while True:
        await asyncio.sleep(0.05)
        killed = sum(KILLS in sent.prompt for sent in client.sent)
        if killed > deaths:
            deaths = killed
            await asyncio.sleep(RELOAD_S)
            for verb in ("unload", "load"):
                await asyncio.to_thread(order, parts.triton, name, verb)


async def restart(engines: Sequence[TritonServer], model: str) -> None:
    """Restart the engines one after the other, each once the one before serves again."""
    for engine in engines:
        await asyncio.to_thread(engine.stop)
        await asyncio.to_thread(engine.start)
        await asyncio.to_thread(load, [engine], model)


async def begin(parts: Parts, client: Client, fault: str) -> None:
    """Let the active version fail from now on."""
    if fault == "all slow":
        await slow_down(parts, client.model)
    elif fault == "dead for good":
        await client.send(KILLS)
    else:
        client.fault = fault


async def run(parts: Parts, fault: str, model: str) -> Round:
    """Let a model fail once, and return what it cost."""
    with contextlib.ExitStack() as stack:
        engines = [parts.triton]
        if fault == RESTART:
            second = TritonServer(parts.folder / f"second-{model}")
            engines.append(await asyncio.to_thread(stack.enter_context, running(second)))
        await serve(parts, model, engines, fault)
        return await measure(parts, fault, model, engines)


async def measure(parts: Parts, fault: str, model: str, engines: Sequence[TritonServer]) -> Round:
    """Send requests to a model, let it fail, and return what it cost."""
    async with httpx.AsyncClient(
        base_url=parts.gateway.base_url, headers=parts.gateway.headers, timeout=60, trust_env=False
    ) as http:
        client = Client(http, model)
        working = [asyncio.create_task(client.run())]
        await asyncio.sleep(BEFORE_S)
        began_s = time.time()
        await begin(parts, client, fault)
        if fault == BOTH_SLOW:
            working.append(asyncio.create_task(slow_down_both(parts, model)))
        if fault == DEATHS:
            working.append(asyncio.create_task(load_again(parts, client)))

        async def has_moved() -> bool:
            newest = [sent.version for sent in client.ordinary(began_s)][-SETTLED:]
            return newest == [f"{model}@v1"] * SETTLED

        try:
            if fault == RESTART:
                await restart(engines, model)
            else:
                await until(has_moved, timeout_s=LONGEST_S)
            await asyncio.sleep(WATCH_S if fault in (BOTH_SLOW, RESTART) else 0.0)
        finally:
            while pending := [task for task in working if not task.done()]:
                for task in pending:
                    task.cancel()  # Python 3.11 loses one that comes as an answer of the bus arrives
                await asyncio.wait(pending, timeout=1.0)
    kinds = {"one prompt in ten fails": FAILS, "query of death": KILLS, DEATHS: KILLS}
    bad_s = next(sent.at_s for sent in client.sent if kinds.get(fault, "") in sent.prompt and sent.at_s >= began_s)
    alerts = [event.time.timestamp() for event in await stored_facts(parts.js, f.AlertRaised, client.model)]
    raised = [at_s for at_s in alerts if at_s >= bad_s]  # not `blind`: these versions have no signed policy
    alert_s = min(raised) - bad_s if raised else float("nan")
    seen = client.ordinary(bad_s)
    moves = [event.data.cause for event in await stored_facts(parts.js, f.DeploymentChanged, model)].count("rollback")
    moved_s = max((sent.at_s for sent in seen if sent.version != f"{model}@v1"), default=bad_s) - bad_s
    failed = sum(sent.status >= 500 and FAILS not in sent.prompt for sent in seen)
    return Round(alert_s, moved_s if moves else float("nan"), failed, moves)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from a fault to the previous version, on real parts.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=FAULTS, nargs="+", default=list(FAULTS))
    args = parser.parse_args()
    rows = []
    async with toy_parts() as parts:
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(running(S3Server(parts.folder / "store")))
            for service, servers in (("monitor", store), ("rollback_controller", None)):
                settings = connection(parts.nats, servers, parts.folder / service)
                stack.enter_context(running_service(f"services.{service}.main", settings))
            for number, fault in enumerate(args.only):
                rounds = []
                for each in range(args.rounds):
                    rounds.append(await run(parts, fault, f"m{number}-{each}"))
                    print(f"{fault}: {rounds[-1]}", flush=True)
                alerts, moves = [one.alert_s for one in rounds], [one.moved_s for one in rounds]
                figures = [f"{quantile(alerts, 0.5):.1f} ({max(alerts):.1f})", f"{FAULTS[fault]:.0f}"]
                figures += [f"{quantile(moves, 0.5):.1f} ({max(moves):.1f})"]
                moved = sorted({one.moves for one in rounds})
                figures = [figure.replace("nan (nan)", "none") for figure in figures]
                rows.append([fault, *figures, f"{max(one.failed for one in rounds)}", " or ".join(map(str, moved))])
    print()
    head = ("fault", "s to the alert, p50 (max)", "limit", "s to the last request elsewhere", "most failed", "moves")
    show_table(head, rows)


if __name__ == "__main__":
    asyncio.run(main())
