"""Plans a benchmark before any request: identity, seed, and arrival of each request."""

import random
from dataclasses import dataclass

from contracts.facts import StageRequested, VariantStaged
from contracts.vocabulary import Deployable, Digest, digest_of_json
from services.benchmarker.domain.records import SIDES, Side

METHOD = "7"
"""Part of every output key; increase it when a change of method changes figures."""


@dataclass(frozen=True)
class Arrival:
    """A planned request: seconds since the start of the load, side, pair and prompt."""

    at_s: float
    side: Side
    pair: int
    prompt: int


@dataclass(frozen=True)
class BenchmarkPlan:
    """The identity of a measurement; equal plans share a report."""

    output_key: Digest
    seed: int


def plan_benchmark(staged: VariantStaged, *, hardware: str, prompts: Digest) -> BenchmarkPlan:
    """Return the identity of a measurement.

    The key covers targets, load, gates, hardware and attempt, because a deliberate repetition may give other results.
    It omits endpoints and leases.

    Args:
        staged: The served targets and the staging request.
        hardware: Fingerprint of the hardware.
        prompts: Digest of the prompts.
    """
    request: StageRequested = staged.request
    key = digest_of_json(
        {
            "stage": "benchmark",
            "method": METHOD,
            "candidate": _identity(request.candidate),
            "baseline": _identity(request.baseline),
            "load": request.load.model_dump(mode="json"),
            "gates": [gate.model_dump(mode="json") for gate in request.gates],
            "quality": request.quality.model_dump(mode="json") if request.quality else None,
            "quality_gate": request.quality_gate.model_dump(mode="json") if request.quality_gate else None,
            "prompts": prompts,
            "attempt": request.attempt,
            "hardware": hardware,
        }
    )
    return BenchmarkPlan(output_key=key, seed=int(key.removeprefix("sha256:")[:15], 16))


def _identity(deployable: Deployable) -> dict[str, str]:
    return {"target": str(deployable.target), "manifest": deployable.manifest.digest}


def plan_arrivals(*, requests: int, rate_rps: float, prompts: int, seed: int) -> tuple[Arrival, ...]:
    """Return an open-loop load of both sides: one Poisson process at twice the rate, cut into pairs.

    A pair sends one prompt to both sides in random order, so that disturbances affect both alike. Each side gets
    `requests` requests at `rate_rps` on average.

    Args:
        requests: Requests per side.
        rate_rps: Mean arrivals per second and side.
        prompts: Number of prompts, used in shuffled rounds.
        seed: Makes the plan repeatable.
    """
    rng = random.Random(seed)  # noqa: S311 - a repeatable load, not a secret
    arrivals: list[Arrival] = []
    at_s = 0.0
    remaining: list[int] = []
    for pair in range(requests):
        remaining = remaining or rng.sample(range(prompts), prompts)
        prompt = remaining.pop()
        for side in rng.sample(SIDES, len(SIDES)):
            at_s += rng.expovariate(rate_rps * len(SIDES))
            arrivals.append(Arrival(at_s=at_s, side=side, pair=pair, prompt=prompt))
    return tuple(arrivals)
