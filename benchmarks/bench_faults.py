"""From a fault of the active version to all traffic on the previous one, by the monitor, on real parts.

NATS, Triton with two toy versions, a gateway, the monitor and the rollback-controller with their own settings. In each
round a fresh model serves four requests a second for five seconds; then its active version begins to fail:

- dead for good: its engine dies of one prompt, and reports it for each request from then on;
- query of death: a client sends that prompt every second to the model, also after traffic has moved;
- one prompt in ten fails;
- all slow: the first token takes four seconds more (a drill in the gateway).

Seconds from the first bad request until the alert is raised, and until the last request was sent that did not go to
the previous version; requests of others that failed. Run: python -m benchmarks.bench_faults [--rounds N] [--only FAULT]
"""

import argparse
import asyncio
import contextlib
import time
import uuid
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
from testbed.gateway import load_toy
from testbed.servers import S3Server, connection, running
from testbed.services import running_service, stored_facts

RATE_RPS, BEFORE_S, LONGEST_S, SETTLED = 4.0, 5.0, 120.0, 12
FAULTS = {"dead for good": 2.0, "query of death": 10.0, "one prompt in ten fails": 120.0, "all slow": 20.0}
"""With the most seconds until the alert."""
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
        return [sent for sent in self.sent if sent.at_s >= since_s and sent.status and sent.prompt != KILLS]


@dataclass(frozen=True)
class Round:
    """Seconds since the first bad request, and how many of the others' requests failed."""

    alert_s: float
    moved_s: float
    failed: int


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


async def serve(parts: Parts, model: str) -> Route:
    """Load two versions of a model, declare their triggers, and send its traffic to the second one."""
    switches = {"dead_text": KILLS}
    toy: dict[int, ServedTarget] = {
        1: await asyncio.to_thread(load_toy, parts.triton, model, 1, **switches),
        2: await asyncio.to_thread(load_toy, parts.triton, model, 2, **switches, fail_text=FAILS),
    }
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


async def begin(parts: Parts, client: Client, fault: str) -> None:
    """Let the active version fail from now on."""
    if fault == "all slow":
        now = datetime.now(UTC)
        drill = Drill(
            drill_id=f"drill-{client.model}",
            target=k.target(2, "bf16", client.model),
            environment="production",
            fault=f.DrillFault(delay_ms=4000),
            share_ratio=1.0,
            starts_at=now,
            expires_at=now + timedelta(seconds=2 * LONGEST_S),
            actor="bench",
            reason="bench_faults",
        )
        await (await parts.js.key_value("drills")).put(record_key("production", client.model), dump(drill))
    elif fault == "dead for good":
        await client.send(KILLS)
    else:
        client.fault = fault


async def run(parts: Parts, fault: str, model: str) -> Round:
    """Let a model fail once, and return what it cost."""
    await serve(parts, model)
    async with httpx.AsyncClient(
        base_url=parts.gateway.base_url, headers=parts.gateway.headers, timeout=60, trust_env=False
    ) as http:
        client = Client(http, model)
        sending = asyncio.create_task(client.run())
        await asyncio.sleep(BEFORE_S)
        began_s = time.time()
        await begin(parts, client, fault)

        async def has_moved() -> bool:
            newest = [sent.version for sent in client.ordinary(began_s)][-SETTLED:]
            return newest == [f"{model}@v1"] * SETTLED

        try:
            await until(has_moved, timeout_s=LONGEST_S)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    kinds = {"one prompt in ten fails": FAILS, "query of death": KILLS}
    bad_s = next(sent.at_s for sent in client.sent if kinds.get(fault, "") in sent.prompt and sent.at_s >= began_s)
    alerts = [event.time.timestamp() for event in await stored_facts(parts.js, f.AlertRaised, client.model)]
    alert_s = min(at_s for at_s in alerts if at_s >= bad_s)  # `blind`: these versions have no signed policy
    seen = client.ordinary(bad_s)
    moved_s = max((sent.at_s for sent in seen if sent.version != f"{model}@v1"), default=bad_s)
    failed = sum(sent.status >= 500 and FAILS not in sent.prompt for sent in seen)
    return Round(alert_s - bad_s, moved_s - bad_s, failed)


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
                rows.append([fault, *figures, f"{max(one.failed for one in rounds)}"])
    print()
    head = ("fault", "s to the alert, p50 (max)", "limit", "s to the last request elsewhere", "most failed")
    show_table(head, rows)


if __name__ == "__main__":
    asyncio.run(main())
