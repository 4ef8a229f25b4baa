"""One story: checkpoints of one model, their callers, and what its fate does to all of it."""

import asyncio
import contextlib
import functools
import gc
import hashlib
import random
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from contracts.evaluations import Evaluations
from contracts.facts import CheckpointReady, ReleaseFinished, ReleaseOpened, Training, Weights
from contracts.policy import Canary, Deadlines, LoadProfile, Promotion, ReleasePolicy, Shadow, Trigger
from contracts.vocabulary import digest_of
from services.rollback_controller import rehearsal
from shared.messaging.publishing import publish_event
from shared.storage import kv, record_format
from tests.kit import fakes_registry as k
from tests.kit.records import Killed
from tests.kit.virtual_time import JumpingSelector, VirtualTimeLoop
from tests.world.fate import FAULTS_S, Fate, Fault
from tests.world.services import keep_running
from tests.world.world import MODEL, World

SETTLES_S: Final = 45.0
"""How long a story goes on after its last fault and the end of its last release."""
MOST_S: Final = 450.0
TRIGGER: Final = Trigger(name="errors", metric="error_ratio", threshold=0.1)
POLICY: Final = ReleasePolicy(
    triggers=(TRIGGER,),
    load=LoadProfile(requests=6, output_tokens=2, warmup_requests=1),
    canary=Canary(steps=(0.4,), min_requests=40, deadline_s=300.0),
    rehearsal="required",
    deadlines=Deadlines(traffic_s=240.0),
)
SHADOW: Final = Shadow(share_ratio=0.6, duration_s=10.0, min_requests=20, deadline_s=300.0)
EVALUATIONS: Final = Evaluations.model_validate(
    {"sets": [{"name": "basics", "rows": "default", "scorers": [{"kind": "length"}], "bounds": [{"max_drop": 0.2}]}]}
)
BAD: Final = 0.4


@dataclass(frozen=True)
class Told:
    """A story that has ended."""

    seed: int
    faults: tuple[Fault, ...]
    lines: tuple[str, ...]
    violations: tuple[str, ...]
    summary: str
    came: int
    """How many of its faults happened."""

    @property
    def digest(self) -> str:
        """The digest of its lines: the same for the same seed, in every process."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def __str__(self) -> str:
        faults = "".join(f"\n  {fault}" for fault in self.faults)
        return f"seed {self.seed}: {self.summary}{faults}\n" + "\n".join(self.violations or ("all is well",))


def tell(seed: int, faults: Sequence[Fault] | None = None) -> Told:
    """Return the story of a seed, with its faults or some of them."""
    fate = Fate(seed, faults)
    state, parsed = random.getstate(), functools.lru_cache(512)(record_format.parse)
    random.seed(seed)
    gc.disable()
    try:
        with (
            asyncio.Runner(loop_factory=InlineLoop) as runner,
            replaced(kv, "parse", parsed),
            replaced(kv, "_SAFETY_NET_S", 6.0),
            replaced(rehearsal, "_POLL_S", 0.5),
        ):
            return runner.run(_live(fate))
    finally:
        gc.enable()
        random.setstate(state)


def shrink(told: Told) -> Told:
    """Return the story with as few faults as it takes to go wrong; the noise of its seed stays."""
    for fault in told.faults:
        fewer = tell(told.seed, [other for other in told.faults if other is not fault])
        if fewer.violations:
            told = fewer
    return told


@contextlib.contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Let a name of a module be something else for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class _NoSockets(JumpingSelector):
    def select(self, timeout: float | None = None) -> list[Any]:
        """Move the time, and ask no operating system."""
        return self.move(timeout)


class InlineLoop(VirtualTimeLoop):
    """Virtual time without threads and sockets: what is called in a thread elsewhere is done at once."""

    selector = _NoSockets

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # noqa: ARG002
        """Do it now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future


async def _live(fate: Fate) -> Told:
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    world = World(fate)
    with _logs_noted(world):
        running = [asyncio.create_task(keep_running(world, seat)) for seat in fate.seats]
        running += [asyncio.create_task(world.befall(fault)) for fault in fate.faults]
        running += [asyncio.create_task(world.call()), asyncio.create_task(world.person.approve())]
        running.append(asyncio.create_task(world.attached.deploy()))
        await _announce(world)
        await _end(world)
        world.checks.check_end()
        for task in running:
            task.cancel()
        for process in world.processes.values():
            process.end("ends")
            await process.close()
        await asyncio.gather(*running, return_exceptions=True)
    for name, stream in world.server.streams.items():
        if not stream.messages:
            continue
        held = hashlib.sha256(b"\n".join(each.data or b"" for each in stream.messages.values())).hexdigest()
        world.tell(f"{name} holds {len(stream.messages)} messages: {held[:16]}")
    world.close()
    lost = sum(answer.version is None for _, answer in world.answers)
    active = world.checks.route.active if world.checks.route else None
    ended = [(fact["outcome"], fact.get("code")) for fact in world.checks.of(ReleaseFinished)]
    summary = f"{active.target if active else None} active, {ended}, {lost} of {len(world.answers)} requests lost"
    return Told(fate.seed, fate.faults, tuple(world.lines), tuple(world.violations), summary, len(fate.came))


async def _end(world: World) -> None:
    """Wait until everything that was begun has ended and was quiet for a while."""
    quiet_s = 0.0
    while quiet_s < SETTLES_S and world.now_s < MOST_S:
        await asyncio.sleep(5.0)
        is_over = world.now_s > FAULTS_S + 32.0 and world.checks.all_ended() and world.all_bad_shown()
        quiet_s = quiet_s + 5.0 if is_over else 0.0


async def _announce(world: World) -> None:
    """Announce a good checkpoint, then others, of which some are bad at once and some later."""
    kinds = ["good", world.fate.draws.choice(("good", "bad", "bad later"))]

    def note(message: Any) -> None:
        if ReleaseOpened.TYPE in (message.subject or ""):
            opened = world.checks.facts[-1][1]["data"]
            kind = kinds[int(opened["training"]["run_id"].split()[1])]
            world.kinds.setdefault(opened["release_id"], kind)
            since_s = world.now_s + 110.0 if kind == "bad later" else 0.0
            if kind != "good" and opened["version"] not in world.bad:
                world.bad[opened["version"]] = (since_s, BAD)

    world.server.stored.append(note)
    for number in range(len(kinds)):
        world.tell(f"checkpoint {number} is {kinds[number]}")
        await _publish(world, number)
        await asyncio.sleep(world.fate.draws.uniform(15.0, 50.0))


async def _publish(world: World, number: int) -> None:
    ref = k.ref(f"checkpoints/{MODEL}/manifests/folder/run-{number}.json")
    world.artifacts.present[ref.uri] = f"checkpoints/{MODEL}/manifests/folder/run-{number}.json".encode()
    ready = k.ready(
        weights=Weights(kind="lora", ref=ref),
        training=Training(run_id=f"run {number}", data_hash=digest_of(b"data"), hyperparameters={}),
        variants=("bf16",),
        policy=POLICY.model_copy(
            update={
                "shadow": world.fate.plot.choice((None, SHADOW)),
                "evaluations": world.fate.plot.choice((Evaluations(), Evaluations(), EVALUATIONS)),
                "promotion": Promotion(mode=world.fate.plot.choice(("automatic", "automatic", "manual"))),
            }
        ),
    )
    event = k.event(ready, f"checkpoint-{number}", at=world.clock.true_time())
    assert isinstance(event.data, CheckpointReady)
    await publish_event(world.js, event)  # type: ignore[arg-type]


@contextlib.contextmanager
def _logs_noted(world: World) -> Iterator[None]:
    """Drop all log lines; those about a defect are violations."""

    def note(_logger: Any, method: str, line: dict[str, Any]) -> Any:
        error = line["exc_info"] if isinstance(line.get("exc_info"), BaseException) else sys.exception()
        if (method == "exception" or line.get("exc_info")) and not isinstance(error, Killed):
            world.violated(f"{line.pop('event')}: {error!r} {line}")
            world.traces += traceback.format_exception(error)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[note], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
