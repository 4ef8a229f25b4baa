"""Plans a benchmark before anything is sent: its identity, its seed, and when which request arrives."""

import random
from dataclasses import dataclass

from contracts.facts import StageRequested, VariantStaged
from contracts.vocabulary import Deployable, Digest, digest_of_json
from services.benchmarker.domain.records import SIDES, Side

METHOD = "3"
"""Part of every output key; raised when the way of measuring changes what is measured."""


@dataclass(frozen=True)
class Arrival:
    """When a request arrives, in seconds since the load began, at which side, and with which prompt."""

    at_s: float
    side: Side
    pair: int
    prompt: int


@dataclass(frozen=True)
class BenchmarkPlan:
    """The identity of a measurement: the same plan is the same measurement, however often it is asked for."""

    output_key: Digest
    seed: int


def plan_benchmark(staged: VariantStaged, *, hardware: str, prompts: Digest) -> BenchmarkPlan:
    """Return the identity of a measurement.

    The key holds what was compared, how, on which hardware, and the attempt: a measurement may come out differently
    when it is repeated, so a deliberate repetition has a key of its own. Endpoints and leases are left out.

    Args:
        staged: What is served, and the order that it answers.
        hardware: Fingerprint of the hardware.
        prompts: Digest of the prompts.
    """
    order: StageRequested = staged.request
    key = digest_of_json(
        {
            "stage": "benchmark",
            "method": METHOD,
            "candidate": _identity(order.candidate),
            "baseline": _identity(order.baseline),
            "load": order.load.model_dump(mode="json"),
            "gates": [gate.model_dump(mode="json") for gate in order.gates],
            "quality": order.quality.model_dump(mode="json") if order.quality else None,
            "quality_gate": order.quality_gate.model_dump(mode="json") if order.quality_gate else None,
            "prompts": prompts,
            "attempt": order.attempt,
            "measurement_number": order.measurement_number,
            "hardware": hardware,
        }
    )
    return BenchmarkPlan(output_key=key, seed=int(key.removeprefix("sha256:")[:15], 16))


def _identity(deployable: Deployable) -> dict[str, str]:
    record = deployable.measurement_manifest or deployable.manifest
    return {
        "target": str(deployable.target),
        "manifest": deployable.manifest.digest,
        "record": record.digest,
    }


def plan_arrivals(*, requests: int, rate_rps: float, prompts: int, seed: int) -> tuple[Arrival, ...]:
    """Plan the open-loop load of both sides: one Poisson process at twice the rate, cut into pairs.

    The two requests of a pair carry the same prompt and go to the two sides in random order, so that whatever the
    machine does meanwhile hits both sides alike. Each side gets `requests` requests at `rate_rps` on average.

    Args:
        requests: Requests per side.
        rate_rps: Mean arrivals per second and side.
        prompts: How many prompts there are; they are used in shuffled rounds.
        seed: Makes the plan repeatable.
    """
    chance = random.Random(seed)  # noqa: S311 - a repeatable load, not a secret
    arrivals: list[Arrival] = []
    at_s = 0.0
    round_: list[int] = []
    for pair in range(requests):
        round_ = round_ or chance.sample(range(prompts), prompts)
        prompt = round_.pop()
        for side in chance.sample(SIDES, len(SIDES)):
            at_s += chance.expovariate(rate_rps * len(SIDES))
            arrivals.append(Arrival(at_s=at_s, side=side, pair=pair, prompt=prompt))
    return tuple(arrivals)
