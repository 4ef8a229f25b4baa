"""Takes an opened release, merges its checkpoint, and says what came of it."""

import asyncio
from dataclasses import dataclass, field

from contracts.envelope import Event
from contracts.facts import CheckpointMerged, CheckpointRejected, MergeMethod, ReleaseOpened
from contracts.manifests import FileEntry, MergedManifest
from contracts.vocabulary import ArtifactRef
from services.merger import domain
from services.merger.ports import Artifacts, Folder, MergeEngine, MergeOrder, Progress, Verification
from shared.bus import Bus, Failed
from shared.clock import Clock
from shared.errors import Permanent
from shared.progress import teller

SERVICE = "merger"


@dataclass(frozen=True)
class Merger:
    """Makes one merged model; the outside comes in through its ports."""

    artifacts: Artifacts
    engine: MergeEngine
    clock: Clock
    dtype: domain.SaveDtype = "bfloat16"
    limits: domain.ParityLimits = field(default_factory=domain.ParityLimits)

    async def merge(self, opened: ReleaseOpened, progress: Progress) -> tuple[MergedManifest, ArtifactRef]:
        """Give the committed merged model of a release: the one already there, or a new one.

        Raises:
            Permanent: the checkpoint is refused.
        """
        output_key = domain.plan_output_key(
            model=opened.model, base=opened.base, weights=opened.weights, dtype=self.dtype, limits=self.limits,
            library_versions=self.engine.library_versions(),
        )  # fmt: skip
        found = await asyncio.to_thread(self.artifacts.find_merged, output_key)
        return found or await self._make(opened, output_key, progress)

    async def _make(
        self, opened: ReleaseOpened, output_key: str, progress: Progress
    ) -> tuple[MergedManifest, ArtifactRef]:
        started = self.clock.monotonic()
        base = await asyncio.to_thread(self.artifacts.open_base, opened.base)
        refuse(domain.assess_base_identity(opened.base, base.digest))
        checkpoint = await asyncio.to_thread(self.artifacts.open_folder, opened.weights.ref)
        sizes = {file.path: file.size_bytes for file in checkpoint.files}
        refuse(domain.assess_files(opened.weights.kind, sizes))  # before anything large is downloaded
        async with self.artifacts.workshop(output_key) as room:
            order = MergeOrder(
                kind=opened.weights.kind, base_ref=opened.base, dtype=self.dtype,
                base=await asyncio.to_thread(self.artifacts.keep, base, progress),
                checkpoint=room / "checkpoint", out=room / "out", stored=room / "stored",
            )  # fmt: skip
            await asyncio.to_thread(
                self.artifacts.fetch, checkpoint.files, checkpoint.prefix, order.checkpoint, progress, "download"
            )
            merge_peak_bytes = await self.engine.merge(order, progress)
            files = await asyncio.to_thread(self.artifacts.put, order.out, progress)
            await asyncio.to_thread(self.artifacts.fetch, files, "", order.stored, progress, "reload")
            seen = await self.engine.verify(order, progress)
        self._refuse_changed(base, files, seen)
        manifest = MergedManifest(
            model=opened.model, output_key=output_key, base=opened.base, weights=opened.weights, files=files,
            method=MergeMethod(
                kind=opened.weights.kind, dtype=self.dtype, library_versions=self.engine.library_versions()
            ),
            parity=seen.parity, tokenizer_digest=domain.tokenizer_digest(files),
            rendered_prompt_digest=seen.rendered_prompt_digest, weights_bytes=domain.weights_bytes(files),
            duration_s=self.clock.monotonic() - started, peak_rss_bytes=max(merge_peak_bytes, seen.peak_rss_bytes),
            made_at=self.clock.now(),
        )  # fmt: skip
        return await asyncio.to_thread(self.artifacts.commit, manifest)

    def _refuse_changed(self, base: Folder, files: tuple[FileEntry, ...], seen: Verification) -> None:
        """Refuse to commit a model that does not answer like its parts, or reads its prompts differently."""
        refuse(domain.assess_parity(seen.parity, self.limits))
        changed = []
        if domain.tokenizer_digest(files) != domain.tokenizer_digest(base.files):
            changed.append("tokenizer files")
        if seen.rendered_prompt_digest != seen.base_rendered_prompt_digest:
            changed.append("rendered prompt")
        refuse(domain.assess_tokenizer(changed))


def refuse(refusal: domain.Refusal | None) -> None:
    """Turn the domain's refusal into the error that becomes a rejection fact.

    Raises:
        Permanent: there is a refusal.
    """
    if refusal is not None:
        raise Permanent(refusal.code, refusal.reason, **refusal.details)


def build(bus: Bus, merger: Merger, *, progress_interval_s: float = 0.5) -> None:
    """Register the handlers."""

    @bus.on(ReleaseOpened, failure=_rejected)
    async def merge(event: Event[ReleaseOpened]) -> CheckpointMerged:
        manifest, ref = await merger.merge(event.data, teller(bus, event, merger.clock, progress_interval_s))
        return CheckpointMerged(
            manifest=ref, method=manifest.method, parity=manifest.parity,
            tokenizer_digest=manifest.tokenizer_digest, rendered_prompt_digest=manifest.rendered_prompt_digest,
            duration_s=manifest.duration_s, peak_rss_bytes=manifest.peak_rss_bytes,
        )  # fmt: skip


def _rejected(failed: Failed) -> CheckpointRejected | None:
    if failed.event is None:
        return None  # nobody's release: the bus keeps it as a dead letter
    error = failed.error
    return CheckpointRejected(code=error.code, reason=error.sentence(), details=error.details)
