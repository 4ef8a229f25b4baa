"""A gateway with its real routing, drills, pairs and telemetry; requests are drawn in blocks, and engines answer at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from contracts.drills import Drill
from contracts.facts import Inference
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Environment
from decisions.evidence.attribution import ErrorKind
from decisions.rollback.drills import change_record
from services.gateway.adapters.bus import BusConnection
from services.gateway.domain import drills, routing
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.requests import ParsedRequest
from services.gateway.domain.routing import Choice
from services.gateway.routing.tables import DrillTable, RouteTable
from services.gateway.telemetry.recorder import Recorder
from tests.world.process import Process

if TYPE_CHECKING:
    from tests.world.world import World

FLUSH_S = 4.0
ANSWER_MS = 90.0
REQUEST = ParsedRequest(path="/v1/completions", kind="completion", raw=b"{}", body={}, model="support-bot")


@dataclass(frozen=True)
class Answer:
    """What a caller got: the version that answered, or why none did."""

    version: int | None = None
    failed: ErrorKind | None = None
    tried: str = ""
    drilled: bool = False


class Gateway:
    """One process of the gateway."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world, self._process = world, process
        clock = process.clock
        self.tables: dict[Environment, RouteTable] = {
            "production": RouteTable(
                world.saved_routes.get(process.seat, {}), partial(world.save_routes, process.seat), clock=clock
            ),
            "staging": RouteTable({}, None, "staging", clock=clock),
        }
        self.drills = DrillTable(clock)
        self.connection = BusConnection(process.bus)
        name = f"{process.seat}-{process.number}"
        self.recorder = Recorder(
            self.connection, gateway=name, queue=4096, batch=500, interval_s=FLUSH_S, on_drop=lambda: None
        )

    def answer(self, model: str, key: str, environment: Environment = "production") -> Answer:
        """Answer a request; a first failure of the engine is rescued by the other version, as the real one does."""
        try:
            choice = self.tables[environment].choose(model, key)
        except RequestRejected:
            return Answer(failed="no_serving_target")
        target, route = choice.served.target, self.tables[environment].get(model)
        assert route is not None
        record = self._ask(choice, environment, key)
        fallback = routing.choose_fallback(route, target) if record.error is not None else None
        rescued = fallback is not None and record.drill is None and self._world.ask_engine(fallback, key) is None
        if rescued and fallback is not None:
            record = record.model_copy(update={"rescued_by": fallback.target})
        self.recorder.record(record)
        self._mirror(route, choice, environment, key, record)
        if record.error is None:
            return Answer(target.version)
        if rescued and fallback is not None:
            return Answer(fallback.target.version)
        return Answer(failed=record.error, tried=str(target), drilled=record.drill is not None)

    def _mirror(self, route: Route, choice: Choice, environment: Environment, key: str, record: Inference) -> None:
        """Ask both versions of a drawn request again, as `Mirrors` does, with capacity for all of them."""
        other = routing.draw_pair(route, choice, REQUEST, key, self._process.clock.now())
        if other is None or not routing.may_follow(record):
            return
        pair = routing.as_pair(
            self._ask(choice, environment, key), self._ask(other, environment, key), shadow=other.shadow
        )
        if pair is not None:
            self.recorder.record(pair)

    def _ask(self, choice: Choice, environment: Environment, key: str) -> Inference:
        """Return the record of a request to a version."""
        target, clock = choice.served.target, self._process.clock
        now, known = clock.now(), self.drills.get(environment, choice.served.target.model)
        drill = drills.decide_effect(known, target, key, now, clock.monotonic())
        fails = drill is not None and drill.fails
        error: ErrorKind | None = "engine_failed" if fails else self._world.ask_engine(choice.served, key)
        infrastructure = error == "endpoint_unreachable"
        record = Inference(
            request_id=key,
            target=target,
            endpoint=choice.served.endpoints[0],
            environment=environment,
            canary=choice.canary,
            scheduled_at=now,
            sent_at=now,
            ttft_ms=None if error else ANSWER_MS / 2,
            e2e_ms=ANSWER_MS,
            input_tokens=20,
            output_tokens=0 if error else 20,
            finish_reason=None if error else "stop",
            error=error,
            caused_by=("infrastructure" if infrastructure else "target") if error else None,
            body=key[-16:] if error and not infrastructure else None,
            caller=f"caller-{hash_of(key) % 50}",
            engine_died="before" if error == "engine_dead" else None,
            drill=None if drill is None else drill.drill_id,
        )
        return record if drill is None else change_record(drill.fault, record)


def hash_of(key: str) -> int:
    """Return a number of a key, the same in every process."""
    return int.from_bytes(key.encode()[-4:], "big")


async def start_gateway(world: "World", process: Process) -> None:
    """Start a gateway."""
    gateway = world.gateways[process.seat] = Gateway(world, process)
    bus, production, staging = gateway.connection, gateway.tables["production"], gateway.tables["staging"]
    process.run(
        bus.connect,
        gateway.recorder.run,
        lambda: bus.follow("routes", Route, production.apply, production.note_bucket),
        lambda: bus.follow("staging-routes", Route, staging.apply),
        lambda: bus.follow("drills", Drill, gateway.drills.apply),
    )


@dataclass
class Flow:
    """Requests of a rehearsal that are being sent."""

    seconds: list[float] = field(default_factory=list)
    last_failure: str = ""


class RehearsalTraffic:
    """Requests to staging, through the gateway (the rollback-controller's port `Traffic`)."""

    def __init__(self, world: "World", process: Process, rps: float = 4.0) -> None:
        self._world, self._process, self._rps = world, process, rps

    @asynccontextmanager
    async def flow(self, model: str) -> AsyncGenerator[Flow, None]:
        """Send requests at a steady rate for as long as the context lasts."""
        flow = Flow()
        sending = self._process.spawn(self._send(model, flow))
        try:
            yield flow
        finally:
            sending.cancel()

    async def _send(self, model: str, flow: Flow) -> None:
        while True:
            await asyncio.sleep(1.0 / self._rps)
            self._process.step("ask the gateway")
            answer = self._world.ask_gateway(model, "staging")
            if answer.version is None:
                flow.last_failure = f"the gateway answered: {answer.failed}"
            else:
                flow.seconds.append(ANSWER_MS / 1000)


class Probe:
    """Asks engines past all gateways (the rollback-controller's port `Probe`)."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None when the target generates a token, else why not."""
        failure = self._world.ask_engine(served, "probe")
        return None if failure in (None, "engine_failed") and least <= 1 else f"{served.target}: {failure}"
