"""What goes wrong in one story, all of it drawn from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Kind = Literal[
    "kill", "kill at", "pause", "cut off", "bus away", "answer lost", "log full", "store away", "clock jumps",
    "engine restarts", "engine dies", "engine slow", "bucket lost", "checkpoint refused",
    "person pauses", "person cancels", "person rolls back", "person drills",
]  # fmt: skip
SERVICES: Final = (
    "registry", "server-manager", "rollback-controller", "monitor", "gateway", "merger", "quantiser", "benchmarker",
    "evaluator",
)  # fmt: skip
TWICE: Final = ("registry", "server-manager", "rollback-controller", "monitor", "gateway", "quantiser")
"""Services of which a story may run two processes; the second one is called `registry-b`."""
FAULTS_S: Final = 110.0
"""Faults begin in so many seconds."""
LEAST: Final = 6
"""How many faults a story has at least."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at_s: When it begins, in seconds of the story; of kills and lost answers that count changes, not used.
        service: Whose process it befalls, `registry-b` for a second one, or which bucket or stream; empty for the bus,
            the store, or an engine.
        seconds: How long it lasts, or by how much a clock jumps.
        change: A kill, or a lost answer, is at this change of the service: an odd number is before it arrives.
    """

    kind: Kind
    at_s: float = 0.0
    service: str = ""
    seconds: float = 0.0
    change: int = 0

    def __str__(self) -> str:
        when = f"at change {self.change}" if self.change else f"at {self.at_s:.1f} s"
        lasts = f" ({self.seconds:.1f} s)" if self.seconds else ""
        return " ".join(filter(None, (self.kind, self.service, when))) + lasts


def draw_faults(chance: random.Random, most: int = 8) -> tuple[Fault, ...]:
    """Return the faults of a story."""
    return tuple(_draw(chance) for _ in range(chance.randint(0, most)))


def _draw(chance: random.Random) -> Fault:
    kinds: dict[Kind, float] = {
        "kill": 6, "kill at": 2, "pause": 2, "cut off": 2, "bus away": 1, "answer lost": 3, "log full": 1,
        "store away": 1, "clock jumps": 1, "engine restarts": 1, "engine dies": 1, "engine slow": 1,
    }  # fmt: skip
    kind = chance.choices(list(kinds), list(kinds.values()))[0]
    fault = Fault(kind, at_s=round(chance.uniform(0.0, FAULTS_S), 3))
    if kind in ("kill", "answer lost"):
        return replace(fault, service=chance.choice(SERVICES), change=int(2.0 ** chance.uniform(0.0, 8.0)))
    if kind in ("kill at", "pause", "cut off", "clock jumps"):
        fault = replace(fault, service=chance.choice(SERVICES))
    if kind in ("kill at", "engine restarts", "engine dies"):
        return fault
    if kind == "clock jumps":
        most = 7.0 if fault.service == "gateway" else 11.0  # a gateway ends drills by its own clock
        return replace(fault, seconds=round(chance.choice((-1.0, 1.0)) * 2.0 ** chance.uniform(0.0, most), 1))
    return replace(fault, seconds=round(2.0 ** chance.uniform(0.0, 5.0), 1))


def draw_orders(chance: random.Random) -> tuple[Fault, ...]:
    """Return what an operator orders in a story: nothing in most of them."""
    orders: tuple[Kind, ...] = (
        "person pauses", "person cancels", "person rolls back", "person drills",
    )  # fmt: skip
    return tuple(
        Fault(
            chance.choice(orders),
            at_s=round(chance.uniform(20.0, 2.0 * FAULTS_S), 3),
            seconds=round(chance.uniform(5.0, 30.0), 1),
        )
        for _ in range(max(0, chance.randint(-3, 3)))
    )


def draw_lost(chance: random.Random) -> tuple[Fault, ...]:
    """Return the bucket or stream that is made again, empty, in a story: none in most of them."""
    lost = Fault(
        "bucket lost",
        round(chance.uniform(20.0, FAULTS_S), 3),
        chance.choice(("alerts", "rollbacks", "routes", "releases", "servers", "SLIPWAY_EVENTS")),
    )
    return (lost,) if chance.random() < 0.15 else ()


def draw_refused(chance: random.Random) -> tuple[Fault, ...]:
    """Return a checkpoint that is announced and refused in a story: none in most of them."""
    refused = Fault("checkpoint refused", round(chance.uniform(0.0, FAULTS_S), 3))
    return (refused,) if chance.random() < 0.2 else ()


class Fate:
    """What one story meets: its faults, and the chance of everything else."""

    def __init__(self, seed: int, faults: Sequence[Fault] | None = None) -> None:
        """Draw the faults of a seed, or take some of them; the rest of its chance is the same."""
        self.seed = seed
        self.noise = random.Random(f"{seed} noise")
        self.draws = random.Random(f"{seed} draws")
        self.plot = random.Random(f"{seed} plot")
        seats = random.Random(f"{seed} seats")
        self.seats: dict[str, str] = {service: service for service in SERVICES}
        """The service of each process that runs."""
        self.seats |= {f"{service}-b": service for service in seats.sample(TWICE, max(0, seats.randint(-1, 2)))}
        drawn = draw_faults(random.Random(f"{seed} faults")) + draw_orders(random.Random(f"{seed} orders"))
        seconds = [seat for seat in self.seats if seat not in SERVICES]
        again = (
            replace(fault, service=seats.choice(seconds))
            for fault in draw_faults(seats, 4)
            if fault.service and seconds
        )
        self.attached = random.Random(f"{seed} attached").random() < 0.2
        """Whether the model is on attached servers, and not on the fleet's engine."""
        drawn += (*again, *draw_lost(random.Random(f"{seed} lost")), *draw_refused(random.Random(f"{seed} refused")))
        more = random.Random(f"{seed} more")
        drawn += tuple(_draw(more) for _ in range(LEAST - len(drawn)))
        self.faults = drawn if faults is None else tuple(faults)
        self.came: set[Fault] = set()
        """The faults that happened: a service may never come to the change at which it was to die."""

    def latency_s(self) -> float:
        """Return how long a request is on its way: milliseconds, and seconds now and then."""
        usual = 0.001 + 0.004 * self.noise.random()
        return usual if self.noise.random() > 0.002 else usual + 2.0 * self.noise.random()

    def restart_s(self) -> float:
        """Return how long it takes until a process that died is there again."""
        return 1.0 + 4.0 * self.noise.random()

    def late_s(self) -> float:
        """Return how long a message is late at a consumer, behind those that came after it: seconds now and then."""
        return 0.0 if self.noise.random() > 0.02 else 20.0 * self.noise.random()

    def doubled(self) -> bool:
        """Return whether a message comes once more although it was acknowledged."""
        return self.noise.random() < 0.01

    def deadly(self, service: str, change: int) -> bool:
        """Return whether a service dies at this change."""
        return self._comes("kill", service, change)

    def loses_answer(self, service: str, change: int) -> bool:
        """Return whether the answer to this change is lost."""
        return self._comes("answer lost", service, change)

    def _comes(self, kind: Kind, service: str, change: int) -> bool:
        coming = [f for f in self.faults if (f.kind, f.service, f.change) == (kind, service, change)]
        self.came.update(coming)
        return bool(coming)
