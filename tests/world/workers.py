"""Merger, quantiser, benchmarker and evaluator as their `main` builds them; their engines take virtual time."""
# ruff: noqa: ARG002 - what stands at a port takes what the port takes

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contracts.facts import EngineVersion
from contracts.manifests import FileEntry, MergedManifest, VariantManifest
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef, digest_of
from decisions.scorers.answers import Answer
from services.benchmarker import app as benchmarker_app
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.settings import BenchmarkerSettings
from services.evaluator import app as evaluator_app
from services.evaluator.evaluate import Asking
from services.evaluator.settings import EvaluatorSettings
from services.merger import app as merger_app
from services.merger.settings import MergerSettings
from services.quantiser import app as quantiser_app
from services.quantiser.adapters.release_watch import LoggedRelease
from services.quantiser.ports import PackagedText, QuantisationResult
from services.quantiser.settings import QuantiserSettings
from shared.errors import Transient
from shared.serving.tensors import Delta
from tests.kit import fakes_registry as k
from tests.unit.benchmarker import fakes as benchmarking
from tests.unit.merger import merging
from tests.world.process import Process

if TYPE_CHECKING:
    from tests.world.world import World

WORK_S = (1.0, 25.0)
TOKEN_S = 0.05
_SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


class WorkerStores:
    """What the workers have in the store; it outlives their processes."""

    def __init__(self, folder: Path) -> None:
        self.merged = MergedModels()
        self.variants = Variants(self.merged, folder)
        self.benchmarks, self.evaluations = Benchmarks(), Evaluations()


class MergedModels(merging.FakeArtifacts):
    """Merged models in memory, each with a reference of its own."""

    def __init__(self) -> None:
        super().__init__(base_digest=k.BASE_FOLDER.digest)

    def commit(self, manifest: MergedManifest) -> Any:
        """Write a manifest, create-only."""
        return self.committed.setdefault(manifest.output_key, (manifest, _ref("merged", manifest.output_key)))


class Variants:
    """Variants in memory (`services.quantiser.ports.Artifacts`)."""

    def __init__(self, merged: MergedModels, folder: Path) -> None:
        self._merged, self._folder = merged, folder
        self._committed: dict[str, tuple[VariantManifest, ArtifactRef]] = {}

    def open_merged(self, ref: ArtifactRef) -> MergedManifest:
        """Return a merged model's manifest."""
        return next(manifest for manifest, stored in self._merged.committed.values() if stored == ref)

    def find_variant(self, merged: ArtifactRef, output_key: str) -> tuple[VariantManifest, ArtifactRef] | None:
        """Return a committed variant."""
        return self._committed.get(output_key)

    def fetch(self, merged: ArtifactRef, files: Sequence[FileEntry], into: Path, progress: Any) -> None:
        """Write the configuration of a model; nothing reads the other files."""
        into.mkdir(parents=True, exist_ok=True)
        (into / "config.json").write_text(json.dumps(_SHAPE))

    def put_held_out(self, merged: ArtifactRef, windows: Any) -> None:
        """Store no windows."""

    def commit(self, merged: ArtifactRef, manifest: VariantManifest) -> tuple[VariantManifest, ArtifactRef]:
        """Write a manifest, create-only."""
        return self._committed.setdefault(manifest.output_key, (manifest, _ref("variant", manifest.output_key)))

    @asynccontextmanager
    async def scratch_dir(self, name: str) -> AsyncGenerator[Path, None]:
        """Return a folder for one unit of work."""
        yield self._folder / digest_of(name.encode())[-16:]


class Benchmarks(benchmarking.FakeReports):
    """Reports in memory, of variants that have no windows."""

    def held_out(self, manifest: ArtifactRef) -> tuple[()]:
        """Return no windows."""
        return ()


class Evaluations:
    """Reports of evaluations in memory; the set is the one that Slipway brings."""

    def __init__(self) -> None:
        self._committed: dict[str, Any] = {}

    def find(self, output_key: str) -> Any:
        """Return a committed report."""
        return self._committed.get(output_key)

    def commit(self, report: Any) -> Any:
        """Write a report, create-only."""
        return self._committed.setdefault(report.output_key, (report, _ref("evaluation", report.output_key)))


def _ref(kind: str, output_key: str) -> ArtifactRef:
    name = f"manifests/{kind}/{output_key[-16:]}.json"
    return ArtifactRef(uri=f"s3://slipway/{name}", digest=digest_of(name.encode()), size_bytes=9)


class Engines:
    """What the workers of one process compute with, or ask; the versions answer as they do callers."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world, self._process = world, process

    async def work(self) -> None:
        """Work for virtual minutes; a process that dies meanwhile begins again."""
        await asyncio.sleep(self._world.fate.noise.uniform(*WORK_S))
        self._process.step("work is done")

    async def reach(self, served: ServedTarget) -> None:
        """Wait for an answer; raise Transient if there is none."""
        await asyncio.sleep(TOKEN_S)
        self._process.step("the engine is asked")
        failure = self._world.ask_engine(served, "benchmark")
        if failure in ("endpoint_unreachable", "engine_dead"):
            raise Transient("endpoint_unreachable", f"{served.target}: {failure}")


class _MergeEngine(merging.FakeEngine):
    def __init__(self, engines: Engines) -> None:
        files = ("model.safetensors", "tokenizer.json", "config.json")
        super().__init__([], files=tuple(merging.entry(name) for name in files))
        self._engines = engines

    async def merge(self, job: Any, progress: Any) -> Any:
        await self._engines.work()
        return await super().merge(job, progress)


class _QuantiseEngine:
    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def version(self, plan: Any) -> EngineVersion:
        return EngineVersion(name=plan.engine, version="1")

    def library_versions(self, plan: Any) -> dict[str, str]:
        return {"torch": "2"}

    async def quantise(self, job: Any, progress: Any) -> QuantisationResult:
        await self._engines.work()
        return QuantisationResult(quality=k.quality(), calibration_tokens=0, peak_rss_bytes=1)


class _BenchmarkEngine(benchmarking.FakeEngine):
    def __init__(self, engines: Engines) -> None:
        super().__init__({})
        self._engines = engines

    async def stream(  # type: ignore[override]
        self, served: ServedTarget, prompt: str, *, output_tokens: int, **_: Any
    ) -> AsyncGenerator[Delta, None]:
        for index in range(output_tokens):
            await self._engines.reach(served)
            yield Delta(f"t{index} ", "length" if index == output_tokens - 1 else None, 5, 1, ())

    async def can_score(self, served: ServedTarget, *, timeout_s: float) -> bool:
        return False


class _Endpoint:
    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def ask(self, served: ServedTarget, body: Any, *, timeout_s: float) -> Answer:
        await self._engines.reach(served)
        return Answer("An answer.")


async def _prompt(served: ServedTarget, messages: Any) -> str:
    return "prompt"


async def start_merger(world: "World", process: Process) -> None:
    """Start the merger."""
    artifacts = process.calls(world.stores.merged, "find_merged", "commit")
    merger_app.build(
        process.bus,
        artifacts=artifacts,
        engine=cast("Any", _MergeEngine(Engines(world, process))),
        templates=merging.FakeTemplates(),
        settings=MergerSettings(),
        clock=process.clock,
    )
    process.run()


async def start_quantiser(world: "World", process: Process) -> None:
    """Start the quantiser."""
    quantiser_app.build(
        process.bus,
        artifacts=process.calls(world.stores.variants, "find_variant", "commit"),
        engine=_QuantiseEngine(Engines(world, process)),
        packaged=PackagedText(calibration=digest_of(b"calibration"), held_out=digest_of(b"held out")),
        watch_release=partial(LoggedRelease, process.bus),
        settings=QuantiserSettings(),
        clock=process.clock,
    )
    process.run()


async def start_benchmarker(world: "World", process: Process) -> None:
    """Start the benchmarker."""
    benchmarker_app.build(
        process.bus,
        engine=_BenchmarkEngine(Engines(world, process)),
        reports=process.calls(world.stores.benchmarks, "find", "commit"),
        template=_prompt,
        hardware=Hardware(cpu="cpu", cores=2, memory_bytes=1, gpus=(), declared=""),
        settings=BenchmarkerSettings(),
        clock=process.clock,
    )
    process.run()


async def start_evaluator(world: "World", process: Process) -> None:
    """Start the evaluator, which checks nothing that serves: no policy here has a schedule."""
    evaluator_app.build(
        process.bus,
        asking=Asking(_Endpoint(Engines(world, process)), lambda _text: "en"),
        reports=process.calls(world.stores.evaluations, "find", "commit"),
        settings=EvaluatorSettings(),
        clock=process.clock,
    )
    process.run()
