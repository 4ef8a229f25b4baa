"""Merger, quantiser and benchmarker as far as others see them: answers of the shape that they give, minutes later."""

import asyncio
from typing import TYPE_CHECKING, Any

from contracts.envelope import Event
from contracts.facts import (
    CheckpointMerged,
    ReleaseOpened,
    VariantBenchmarked,
    VariantQuantised,
    VariantRequested,
    VariantStaged,
)
from tests.kit import fakes_registry as k
from tests.world.process import Process

if TYPE_CHECKING:
    from tests.world.world import World

WORK_S = (1.0, 12.0)


async def start_merger(world: "World", process: Process) -> None:
    """Start the merger."""

    @process.bus.on(ReleaseOpened)
    async def merge(event: Event[ReleaseOpened]) -> CheckpointMerged | None:
        if event.data.returns is not None:
            return None
        await _work(world, process)
        return k.merged().model_copy(update={"manifest": k.ref(f"manifests/merged/v{event.data.version}.json")})

    process.run()


async def start_quantiser(world: "World", process: Process) -> None:
    """Start the quantiser."""

    @process.bus.on(VariantRequested)
    async def quantise(event: Event[VariantRequested]) -> VariantQuantised:
        await _work(world, process)
        name = f"v{event.data.version}.{event.data.variant}"
        return k.quantised(event.data.variant).model_copy(update={"manifest": k.ref(f"manifests/variant/{name}.json")})

    process.run()


async def start_benchmarker(world: "World", process: Process) -> None:
    """Start the benchmarker."""

    @process.bus.on(VariantStaged)
    async def benchmark(event: Event[VariantStaged]) -> VariantBenchmarked | None:
        staged = event.data
        if staged.request.purpose != "benchmark":
            return None
        await _work(world, process)
        measured: dict[str, Any] = {"target": staged.candidate.target, "baseline": staged.baseline.target}
        return k.benchmarked(staged.candidate.target.variant).model_copy(update=measured)

    process.run()


async def _work(world: "World", process: Process) -> None:
    """Work for virtual minutes; a process that dies meanwhile begins again."""
    await asyncio.sleep(world.fate.noise.uniform(*WORK_S))
    process.step("work is done")
