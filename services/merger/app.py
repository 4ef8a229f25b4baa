"""Takes an opened release, merges its checkpoint, and says what came of it."""

import asyncio
from dataclasses import dataclass, field

from contracts.envelope import Event
from contracts.facts import CheckpointMerged, CheckpointRejected, MergeMethod, ReleaseOpened
from contracts.manifests import MergedManifest
from contracts.vocabulary import ArtifactRef
from services.merger import domain
from services.merger.ports import Artifacts, Folder, Made, MergeEngine, MergeOrder, Progress
from shared.errors import Permanent
from shared.messaging.bus import Bus, Failed
from shared.runtime.clock import Clock
from shared.runtime.progress import teller

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
        """Return the committed merged model of a release: the one already there, or a new one.

        Raises:
            Permanent: the checkpoint is refused.
        """
        output_key = domain.plan_output_key(
            model=opened.model,
            base=opened.base,
            weights=opened.weights,
            dtype=self.dtype,
            limits=self.limits,
            library_versions=self.engine.library_versions(),
            hyperparameters=opened.training.hyperparameters,
        )
        found = await asyncio.to_thread(self.artifacts.find_merged, output_key)
        return found or await self._make(opened, output_key, progress)

    async def _make(
        self, opened: ReleaseOpened, output_key: str, progress: Progress
    ) -> tuple[MergedManifest, ArtifactRef]:
        started = self.clock.monotonic()
        base = await asyncio.to_thread(self.artifacts.open_base, opened.base)
        refuse(domain.assess_base_identity(opened.base, base.digest))
        checkpoint = await asyncio.to_thread(self.artifacts.open_folder, opened.weights.ref, progress)
        sizes = {file.path: file.size_bytes for file in checkpoint.files}
        refuse(domain.assess_files(opened.weights.kind, sizes))  # before anything large is downloaded
        async with self.artifacts.workshop(output_key) as room:
            order = MergeOrder(
                kind=opened.weights.kind,
                base_ref=opened.base,
                hyperparameters=opened.training.hyperparameters,
                base=base,
                checkpoint=checkpoint,
                room=room,
                dtype=self.dtype,
            )
            made = await self.engine.make(order, progress)
        self._refuse_changed(checkpoint if made.own_tokenizer else base, made)
        manifest = MergedManifest(
            model=opened.model,
            output_key=output_key,
            base=opened.base,
            weights=opened.weights,
            files=made.files,
            method=MergeMethod(
                kind=opened.weights.kind, dtype=self.dtype, library_versions=self.engine.library_versions()
            ),
            parity=made.parity.model_copy(update={"rendered_token_ids_digest": made.rendering.token_ids_digest}),
            tokenizer_digest=domain.tokenizer_digest(made.files),
            rendered_prompt_digest=made.rendering.prompt_digest,
            weights_bytes=domain.weights_bytes(made.files),
            duration_s=self.clock.monotonic() - started,
            peak_rss_bytes=made.peak_rss_bytes,
            created_at=self.clock.now(),
        )
        return await asyncio.to_thread(self.artifacts.commit, manifest)

    def _refuse_changed(self, tokenizer_from: Folder, made: Made) -> None:
        """Refuse to commit a model that does not answer like its parts, or reads its prompts differently."""
        refuse(domain.assess_parity(made.parity, self.limits))
        changed = []
        if domain.tokenizer_digest(made.files) != domain.tokenizer_digest(tokenizer_from.files):
            changed.append("tokenizer files")
        if made.rendering.prompt_digest != made.expected_rendering.prompt_digest:
            changed.append("rendered prompt")
        if made.rendering.token_ids_digest != made.expected_rendering.token_ids_digest:
            changed.append("token ids of the rendered prompt")
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
            manifest=ref,
            method=manifest.method,
            parity=manifest.parity,
            tokenizer_digest=manifest.tokenizer_digest,
            rendered_prompt_digest=manifest.rendered_prompt_digest,
            duration_s=manifest.duration_s,
            peak_rss_bytes=manifest.peak_rss_bytes,
        )


def _rejected(failed: Failed) -> CheckpointRejected | None:
    if failed.event is None:
        return None  # nobody's release: the bus keeps it as a dead letter
    error = failed.error
    return CheckpointRejected(code=error.code, reason=error.sentence(), details=error.details)
