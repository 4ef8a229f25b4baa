"""Puts base models and checkpoints into a real store, and opens releases for them."""

import uuid
from pathlib import Path

from contracts.envelope import Event
from contracts.facts import BaseModelRef, ReleaseOpened, Training, Weights
from contracts.manifests import BaseManifest
from contracts.vocabulary import ArtifactRef, digest_of
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store, manifest_key
from testbed.factories import policy


def put_folder(store: Store, folder: Path, prefix: str = "") -> ArtifactRef:
    """Upload a folder and commit its manifest."""
    manifest = store.put_folder(folder, prefix)
    ref, _ = store.put_manifest(manifest_key("folder", digest_of(manifest.to_bytes()), prefix), manifest)
    return ref


def put_base(store: Store, folder: Path, name: str = "acme/tiny-llama", revision: str = "1") -> BaseModelRef:
    """Import a base model."""
    ref = put_folder(store, folder)
    manifest = BaseManifest(
        name=name,
        revision=revision,
        folder=ref,
        weights_bytes=1,
        architecture="LlamaForCausalLM",
        imported_at=SystemClock().now(),
        source="tests",
    )
    store.put_manifest(f"bases/{name}/{revision}.json", manifest)
    return BaseModelRef(name=name, revision=revision, uri=ref.uri, digest=ref.digest)


def opened(
    base: BaseModelRef, weights: ArtifactRef, *, model: str = "support-bot", kind: str = "lora", version: int = 1
) -> Event[ReleaseOpened]:
    """Return the event `release.opened`, as the registry publishes it."""
    release = f"r-{uuid.uuid4().hex[:16]}-1"
    fact = ReleaseOpened(
        release_id=release,
        model=model,
        version=version,
        attempt=1,
        release_key=digest_of(release.encode()),
        base=base,
        weights=Weights(kind=kind, ref=weights),
        training=Training(run_id="run-1", data_hash=digest_of(b"data")),
        variants=("bf16", "int8"),
        policy=policy(),
        source_event_id="fact-1",
    )
    return Event[ReleaseOpened](
        id=str(uuid.uuid4()),
        source="/slipway/registry",
        type=fact.TYPE,
        subject=model,
        time=SystemClock().now(),
        correlationid=release,
        data=fact,
    )
