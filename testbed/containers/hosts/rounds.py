"""Which host fails in which round, how, and during what: drawn by a seed, so that a run can be repeated."""

import random
from dataclasses import dataclass
from typing import Literal

from testbed.containers.hosts.members import HOSTS
from testbed.containers.hosts.ways import WAYS

Activity = Literal["release", "rollback"]
LATEST_S = 30.0
"""Latest moment after a checkpoint was published at which a host fails; a release takes longer."""


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        activity: What is under way when the host fails.
        host: The host that fails.
        way: How it fails: a key of `WAYS`.
        delay_s: Seconds after the checkpoint was published; negative: the host has failed already.
    """

    activity: Activity
    host: str
    way: str
    delay_s: float

    def __str__(self) -> str:
        """Return what happens, in words."""
        host = f"host {self.host} is {self.way}"
        if self.activity == "rollback":
            return f"{host}; then a rollback is ordered"
        if self.delay_s < 0:
            return f"{host}; then a checkpoint is published"
        return f"a checkpoint is published; {host} {self.delay_s:.0f} s later"


def plan(seed: int, count: int) -> list[Round]:
    """Return rounds: a release, then a rollback of it, and so on; each host and each way before one comes again."""
    draw = random.Random(seed)
    hosts: dict[Activity, list[str]] = {"release": [], "rollback": []}
    ways: list[str] = []
    rounds = []
    for number in range(count):
        activity: Activity = "rollback" if number % 2 else "release"
        host = _next(hosts[activity], HOSTS, draw)
        way = _next(ways, tuple(WAYS), draw)
        # without the store nothing can be published
        delay_s = draw.uniform(0.0 if host == "c" else -LATEST_S, LATEST_S)
        rounds.append(Round(activity, host, way, delay_s))
    return rounds


def _next(rest: list[str], whole: tuple[str, ...], draw: random.Random) -> str:
    """Take one of the rest; once nothing is left, that is the whole again in another order."""
    if not rest:
        rest.extend(draw.sample(whole, len(whole)))
    return rest.pop()
