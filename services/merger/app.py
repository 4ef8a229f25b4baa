"""The merger's handler: merges the checkpoint of each opened release, or publishes why it is rejected."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.envelope import Event
from contracts.facts import CheckpointMerged, CheckpointRejected, MergeMethod, ReleaseOpened
from contracts.manifests import FileEntry, MergedManifest
from contracts.vocabulary import ArtifactRef, ServingSettings
from decisions.serving.settings import SERVING_FILE, SettingsRefused, assess_settings, combine, parse_settings, settle
from services.merger import domain
from services.merger.domain import serving
from services.merger.ports import Artifacts, Folder, MergeEngine, MergeJob, MergeResult, Templates
from services.merger.rejections import raise_rejection
from services.merger.settings import MergerSettings
from shared.errors import Permanent, SlipwayError
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock
from shared.runtime.progress import ReportProgress, progress_reporter

Turns = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ServingProof:
    """Reads serving settings and tests them on the model; chat templates run in a separate, limited process."""

    artifacts: Artifacts
    templates: Templates

    async def read(self, checkpoint: Folder) -> ServingSettings | None:
        """Return the settings in a checkpoint's `serving.json`; None without settings.

        Raises:
            Permanent: `serving_invalid`.
        """
        texts = await asyncio.to_thread(self.artifacts.read_texts, checkpoint, (SERVING_FILE,))
        if SERVING_FILE not in texts:
            return None
        settings = parse_settings(texts[SERVING_FILE])
        refused = settings if isinstance(settings, SettingsRefused) else assess_settings(settings)
        if refused is not None:
            raise Permanent(refused.code, refused.reason, **refused.details)
        return combine(None, settings) if isinstance(settings, ServingSettings) else None

    async def prove(self, settings: ServingSettings | None, files: Sequence[FileEntry]) -> None:
        """Test settings by rendering conversations with them.

        Raises:
            Permanent: `serving_invalid` or `tools_not_rendered`.
        """
        settings = settle(settings)
        if settings is None:
            return
        model = await self._describe(files)
        raise_rejection(serving.assess_context(settings, model) or serving.assess_template(settings, model))
        if model.template is None:
            return
        if settings.template_options:
            raise_rejection(serving.assess_variables(settings, await self._variables(model.template)))
            await self._render(model, settings, domain.PROBE_CONVERSATION, "serving_invalid")
        if settings.tool_parser is not None:
            text = await self._render_tools(model, settings)
            raise_rejection(serving.assess_tool_rendering(text) or serving.assess_call_form(text, settings.tool_parser))

    async def complete(self, settings: ServingSettings | None, files: Sequence[FileEntry]) -> ServingSettings | None:
        """Add the tool parser that fits the chat template, if it is certain.

        Settings that decline a parser stay unchanged.
        """
        settings = settings or ServingSettings()
        model = await self._describe(files)
        if settings.tool_parser is None and model.template is not None and "tools" in model.template:
            try:
                text = await self._render_tools(model, settings)
            except Permanent:
                text = ""  # the template does not render tool conversations
            settings = settings.model_copy(update={"tool_parser": serving.find_tool_parser(text)})
        return settle(settings)

    async def _describe(self, files: Sequence[FileEntry]) -> serving.ModelDescription:
        folder = Folder("", tuple(files), "")
        return serving.describe_model(
            await asyncio.to_thread(self.artifacts.read_texts, folder, serving.DESCRIBING_FILES)
        )

    async def _variables(self, template: str) -> frozenset[str]:
        try:
            return await self.templates.variables_of(template)
        except Permanent as error:
            raise Permanent("serving_invalid", error.reason) from error

    async def _render_tools(self, model: serving.ModelDescription, settings: ServingSettings) -> str:
        return await self._render(model, settings, serving.TOOL_CONVERSATION, "tools_not_rendered", serving.TOOLS)

    async def _render(
        self,
        model: serving.ModelDescription,
        settings: ServingSettings,
        turns: Turns,
        code: serving.RenderingCode,
        tools: Turns | None = None,
    ) -> str:
        """Render a conversation, without its system turn if the template rejects it."""
        variables: dict[str, Any] = {"documents": None, "add_generation_prompt": True, "tools": tools}
        variables |= {**model.special_tokens, **settings.template_options, "messages": turns}
        try:
            return await self.templates.render_with(model.template or "", variables)
        except Permanent as error:
            if error.code == "bad_request" and turns[0]["role"] == "system":
                return await self._render(model, settings, turns[1:], code, tools)
            what = "a conversation with tools" if tools else "a conversation with these template_options"
            raise Permanent(code, f"The chat template cannot render {what}: {error.reason}") from error


SERVICE = "merger"


@dataclass(frozen=True)
class Merger:
    """Makes one merged model per release."""

    artifacts: Artifacts
    engine: MergeEngine
    proof: ServingProof
    clock: Clock
    dtype: domain.SaveDtype = "bfloat16"
    limits: domain.ParityLimits = field(default_factory=domain.ParityLimits)

    async def merge(self, opened: ReleaseOpened, progress: ReportProgress) -> tuple[MergedManifest, ArtifactRef]:
        """Return a release's committed merged model; merge it if there is none.

        Raises:
            Permanent: The checkpoint is rejected.
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
        committed = await asyncio.to_thread(self.artifacts.find_merged, output_key)
        manifest, ref = committed or await self._merge_and_commit(opened, output_key, progress)
        if opened.policy.serve == "adapter":
            await self._check_adapter(opened, manifest, progress)
        return await self._with_settings(opened.serving, manifest, ref)

    async def _check_adapter(self, opened: ReleaseOpened, manifest: MergedManifest, progress: ReportProgress) -> None:
        """Raise Permanent unless the engine can serve the LoRA as an adapter with the same answers as merged."""
        base = await asyncio.to_thread(self.artifacts.open_base, opened.base)
        checkpoint = await asyncio.to_thread(self.artifacts.open_folder, opened.weights.ref, progress)
        texts = await asyncio.to_thread(self.artifacts.read_texts, checkpoint, (domain.ADAPTER_CONFIG,))
        has_own_tokenizer = domain.tokenizer_digest(base.files) != manifest.tokenizer_digest
        raise_rejection(domain.assess_served_adapter(json.loads(texts[domain.ADAPTER_CONFIG]), has_own_tokenizer))

    async def _with_settings(
        self, event: ServingSettings | None, manifest: MergedManifest, ref: ArtifactRef
    ) -> tuple[MergedManifest, ArtifactRef]:
        """Return the same merged model with the event's serving settings over those of the checkpoint's files."""
        settings = settle(combine(event, manifest.serving))
        # Compared as JSON: in Python, 1 equals True.
        if _as_json(settings) == _as_json(manifest.serving):
            return manifest, ref
        output_key = domain.plan_settings_key(manifest.output_key, settings)
        committed = await asyncio.to_thread(self.artifacts.find_merged, output_key)
        if committed is not None:
            return committed
        await self.proof.prove(settings, manifest.files)
        update = {
            "output_key": output_key,
            "serving": settings,
            "settings_of": ref,
            "created_at": self.clock.now(),
        }
        return await asyncio.to_thread(self.artifacts.commit, manifest.model_copy(update=update))

    async def _merge_and_commit(
        self, opened: ReleaseOpened, output_key: str, progress: ReportProgress
    ) -> tuple[MergedManifest, ArtifactRef]:
        started = self.clock.monotonic()
        base = await asyncio.to_thread(self.artifacts.open_base, opened.base)
        raise_rejection(domain.assess_base_identity(opened.base, base.digest))
        checkpoint = await asyncio.to_thread(self.artifacts.open_folder, opened.weights.ref, progress)
        sizes = {file.path: file.size_bytes for file in checkpoint.files}
        raise_rejection(domain.assess_files(opened.weights.kind, sizes))  # before large downloads
        settings = await self.proof.read(checkpoint)
        async with self.artifacts.scratch_dir(output_key) as scratch_dir:
            job = MergeJob(
                kind=opened.weights.kind,
                base_ref=opened.base,
                hyperparameters=opened.training.hyperparameters,
                base=base,
                checkpoint=checkpoint,
                scratch_dir=scratch_dir,
                dtype=self.dtype,
            )
            result = await self.engine.merge(job, progress)
        self._reject_changed(domain.tokenizer_files(base.files, checkpoint.files, result.tokenizer), result)
        await self.proof.prove(settings, result.files)
        manifest = MergedManifest(
            model=opened.model,
            output_key=output_key,
            base=opened.base,
            weights=opened.weights,
            files=result.files,
            method=MergeMethod(
                dtype=self.dtype,
                library_versions=self.engine.library_versions(),
                quantised_base=result.quantised_base,
            ),
            parity=result.parity,
            tokenizer_digest=domain.tokenizer_digest(result.files),
            rendered_prompt_digest=result.rendering.prompt_digest,
            weights_bytes=domain.weights_bytes(result.files),
            duration_s=self.clock.monotonic() - started,
            peak_rss_bytes=result.peak_rss_bytes,
            created_at=self.clock.now(),
            serving=await self.proof.complete(settings, result.files),
        )
        return await asyncio.to_thread(self.artifacts.commit, manifest)

    def _reject_changed(self, tokenizer: Sequence[FileEntry], result: MergeResult) -> None:
        """Reject a merged model that differs from its inputs in logits, tokenizer or rendered prompts.

        Raises:
            Permanent: `parity_failed` or `tokenizer_changed`.
        """
        raise_rejection(domain.assess_parity(result.parity, self.limits))
        changed = []
        if domain.tokenizer_digest(result.files) != domain.tokenizer_digest(tokenizer):
            changed.append("tokenizer files")
        if result.rendering.prompt_digest != result.expected_rendering.prompt_digest:
            changed.append("rendered prompt")
        if result.rendering.token_ids_digest != result.expected_rendering.token_ids_digest:
            changed.append("token ids of the rendered prompt")
        raise_rejection(domain.assess_tokenizer(changed))


def build(
    bus: Bus,
    *,
    artifacts: Artifacts,
    engine: MergeEngine,
    templates: Templates,
    settings: MergerSettings,
    clock: Clock,
) -> Merger:
    """Register the handler on the bus and return the merger."""
    merger = Merger(
        artifacts=artifacts,
        engine=engine,
        proof=ServingProof(artifacts, templates),
        clock=clock,
        dtype=settings.save_dtype,
    )

    @bus.on(ReleaseOpened, failure=_rejected)
    async def merge(event: Event[ReleaseOpened]) -> CheckpointMerged | None:
        if event.data.returns is not None:
            return None
        progress = progress_reporter(bus, event, clock, settings.progress_interval_s)
        manifest, ref = await merger.merge(event.data, progress)
        return CheckpointMerged(
            manifest=ref,
            method=manifest.method,
            parity=manifest.parity,
            duration_s=manifest.duration_s,
            serving=manifest.serving,
        )

    return merger


def _rejected(_event: Event[ReleaseOpened], error: SlipwayError) -> CheckpointRejected:
    return CheckpointRejected(code=error.code, reason=error.sentence(), details=error.details)


def _as_json(settings: ServingSettings | None) -> str | None:
    return None if settings is None else settings.model_dump_json()
