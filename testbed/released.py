"""A version in the store as the services leave it: manifests, blobs, attestations, records; nothing is computed."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.facts import BaseModelRef, EngineVersion, MergeMethod, RegisteredVariant, Weights
from contracts.manifests import (
    BaseManifest,
    BenchmarkReport,
    DeploymentRecord,
    FileEntry,
    FolderManifest,
    HeldOutWindow,
    MergedManifest,
    VariantManifest,
    VersionManifest,
)
from contracts.provenance.steps import RequiredAttestations, Step
from contracts.vocabulary import ArtifactRef, Deployable, Target, Variant, digest_of
from services.benchmarker.adapters.store import StoredReports
from services.merger.adapters.store import StoredArtifacts as MergerArtifacts
from services.quantiser.adapters.store import StoredArtifacts as QuantiserArtifacts
from services.registry.adapters.store import StoredArtifacts as RegistryArtifacts
from shared.provenance.attestations import AttestedCommits
from shared.provenance.envelopes import Subjects
from shared.runtime.settings import SourceSettings
from shared.storage.blobs import Store, manifest_key
from shared.storage.sources import Sources
from testbed import factories
from testbed.attesters import attester, trust

AT = datetime(2026, 11, 24, tzinfo=UTC)
NOTHING = RequiredAttestations(steps=())
TRAINED_ON_BASE = 900
"""The version that signs a base model: a number that tests do not use."""
VARIANTS: tuple[Variant, ...] = ("bf16", "int8")


@dataclass(frozen=True)
class Released:
    """A version, and where its parts are."""

    store: Store
    manifest: VersionManifest
    ref: ArtifactRef
    variants: dict[str, VariantManifest]

    @property
    def name(self) -> str:
        """Return the version as commands name it."""
        return f"{self.manifest.model}@v{self.manifest.version}"


def release(
    store: Store,
    folder: Path,
    model: str = factories.MODEL,
    version: int = 2,
    *,
    attestations: RequiredAttestations = NOTHING,
    files: tuple[FileEntry, ...] | None = None,
    **changes: Any,
) -> Released:
    """Put a version with two variants into a store; keys are in a folder, `changes` are of the version's manifest.

    `files` are those of the merged model and of `bf16`; by default, one that is no model.
    """
    base, weights = _base(store, model), _weights(store, model)
    merged, merged_ref = _merged(store, folder, model, base, weights, files=files)
    made = {variant: _variant(store, folder, merged, merged_ref, variant) for variant in VARIANTS}
    manifest = VersionManifest(
        model=model,
        version=version,
        release_id=f"{model}-release",
        release_key=digest_of(model.encode()),
        base=base,
        weights=weights,
        training=factories.training(),
        evals=(),
        merged=merged_ref,
        variants=tuple(
            RegisteredVariant(
                variant=variant, manifest=ref, weights_bytes=1, size_ratio=1.0, quality=made[variant][0].quality
            )
            for variant, (_, ref) in made.items()
        ),
        policy_digest=digest_of(b"policy"),
        policy={},
        registered_at=AT,
        attestations=attestations,
    ).model_copy(update=changes)
    registry = RegistryArtifacts(store, attester(folder, "registry"), trust(folder))
    ref = asyncio.run(registry.put_version(manifest))
    target = Target(model=model, version=version, variant="int8")
    StoredReports(store, attester(folder, "benchmarker"), trust(folder)).commit(_report(target))
    for epoch in (1, 2):
        record = DeploymentRecord(
            target=target, epoch=epoch, cause="promote", cause_id=f"c{epoch}", weight_ratio=1.0, deployed_at=AT
        )
        asyncio.run(registry.put_deployment(record))
    return Released(store, manifest, ref, {name: each for name, (each, _) in made.items()})


def sign_target(store: Store, folder: Path, deployable: Deployable) -> None:
    """Attest and sign what a deployable is, as the services would; a base model by a version that was trained on it."""
    target, ref = deployable.target, deployable.manifest
    version = target.version or TRAINED_ON_BASE
    for key in store.keys(f"versions/{target.model}/{version}/"):  # of an earlier test, by its own keys
        store._client.remove_object(bucket_name=store.bucket, object_name=key)  # noqa: SLF001 - only tests delete
    about = Subjects(named={ref.uri: ref.digest})
    steps: tuple[tuple[str, Step], ...] = (("merger", "merge"), ("quantiser", "quantise"))
    for name, step in steps:
        commits = AttestedCommits(store, attester(folder, name), step, trust(folder))
        commits.attest(ref.digest, about, store.prefix_of(ref))
    registered = RegisteredVariant(
        variant=target.variant, manifest=ref, weights_bytes=1, size_ratio=1.0, quality=factories.quality()
    )
    manifest = VersionManifest(
        model=target.model,
        version=version,
        release_id="r-1",
        release_key=ref.digest,
        base=BaseModelRef(name="base", revision="1", uri=ref.uri, digest=ref.digest),
        weights=Weights(kind="full", ref=ref),
        training=factories.training(),
        evals=(),
        merged=ref,
        variants=(registered,),
        serving=deployable.serving,
        policy_digest=ref.digest,
        policy={},
        registered_at=AT,
        attestations=NOTHING,
    )
    asyncio.run(RegistryArtifacts(store, attester(folder, "registry"), trust(folder)).put_version(manifest))


def _report(target: Target) -> BenchmarkReport:
    return BenchmarkReport(
        output_key=digest_of(str(target).encode()),
        target=target,
        baseline=factories.target(1),
        attempt=1,
        hardware={},
        load=factories.policy().load,
        candidate_summary=factories.side(2),
        baseline_summary=factories.side(1),
        ratios=(),
        quality=None,
        gates=(),
        verdict="pass",
        started_at=AT,
        duration_s=1.0,
        requests=(),
    )


def _blob(store: Store, name: str, text: str, prefix: str = "") -> FileEntry:
    return store.put_blob(memoryview(f"{text} {name}".encode() * 40), name, prefix)


def _base(store: Store, model: str) -> BaseModelRef:
    files = (_blob(store, "model.safetensors", f"base of {model}"), _blob(store, "config.json", f"base of {model}"))
    data = FolderManifest(files=files)
    folder, _ = store.put_manifest(manifest_key("folder", digest_of(data.to_bytes())), data)
    imported = BaseManifest(
        name="tiny",
        revision=model,
        folder=folder,
        weights_bytes=1,
        architecture="LlamaForCausalLM",
        imported_at=AT,
        source="disk",
    )
    ref, _ = store.put_manifest(f"bases/tiny/{model}.json", imported)
    return BaseModelRef(name="tiny", revision=model, uri=ref.uri, digest=folder.digest)


def _weights(store: Store, model: str) -> Weights:
    prefix = f"checkpoints/{model}/"
    data = FolderManifest(files=(_blob(store, "adapter.safetensors", f"adapter of {model}", prefix),))
    ref, _ = store.put_manifest(manifest_key("folder", digest_of(data.to_bytes()), prefix), data)
    return Weights(kind="lora", ref=ref)


def _merged(
    store: Store,
    folder: Path,
    model: str,
    base: BaseModelRef,
    weights: Weights,
    *,
    files: tuple[FileEntry, ...] | None = None,
) -> tuple[MergedManifest, ArtifactRef]:
    artifacts = MergerArtifacts(
        store, folder / "work", Sources(SourceSettings()), attester(folder, "merger"), trust(folder)
    )
    return artifacts.commit(
        MergedManifest(
            model=model,
            output_key=digest_of(f"merged {model}".encode()),
            base=base,
            weights=weights,
            files=files or (_blob(store, "model.safetensors", f"merged {model}"),),
            method=MergeMethod(dtype="bfloat16", library_versions={}),
            parity=None,
            tokenizer_digest=digest_of(b"t"),
            rendered_prompt_digest=None,
            weights_bytes=1,
            duration_s=1.0,
            peak_rss_bytes=1,
            created_at=AT,
        )
    )


def _variant(
    store: Store, folder: Path, merged: MergedManifest, ref: ArtifactRef, variant: Variant
) -> tuple[VariantManifest, ArtifactRef]:
    artifacts = QuantiserArtifacts(store, folder / "work", attester(folder, "quantiser"), trust(folder))
    windows = (HeldOutWindow(token_ids=(3, 1, len(variant)), reference_nll=2.0, nll=2.5),)
    files = merged.files if variant == "bf16" else (_blob(store, "model.safetensors", f"{variant} {merged.model}"),)
    return artifacts.commit(
        ref,
        VariantManifest(
            model=merged.model,
            variant=variant,
            output_key=digest_of(f"{variant} {merged.model}".encode()),
            merged=ref,
            files=files,
            engine=EngineVersion(name="test", version="1"),
            settings={},
            calibration_digest=None,
            held_out_digest=digest_of(b"text"),
            held_out_text=artifacts.put_held_out(ref, windows),
            size_ratio=1.0,
            quality=factories.quality(),
            weights_bytes=1,
            duration_s=1.0,
            peak_rss_bytes=1,
            created_at=AT,
        ),
    )
