"""The registry's artifacts in the S3 store, and checks of weights in allowed folders on disk."""

import asyncio
import contextvars
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from contracts.facts import EvalResult
from contracts.manifests import (
    ApprovalRecord,
    BaseManifest,
    DeploymentRecord,
    MergedManifest,
    VariantManifest,
    VersionManifest,
)
from contracts.provenance.attestations import BASE_IMPORT, Material
from contracts.storage.sources import scheme_of
from contracts.vocabulary import ArtifactRef, Target, digest_of
from services.registry.domain.versions import StoredVersions
from services.registry.ports import ErasedText
from shared.errors import Permanent, Transient
from shared.provenance.attestations import Chain, find_attestation
from shared.provenance.envelopes import Attester, Signed, Subjects, Trust
from shared.provenance.model_signatures import sign_files, signature_key
from shared.provenance.signed_versions import signed_version
from shared.provenance.version_history import read_version_history
from shared.storage.blobs import Store
from shared.storage.held_out import erase_text
from shared.storage.sources import DiskFolder

_MANIFEST = re.compile(r"versions/[^/]+/\d+/manifest\.json")
_READS = 32
"""Concurrent reads for admissions; the registry's writes use other threads."""


class StoredArtifacts:
    """Artifacts in the object store; every synchronous call runs in a thread.

    A read continues when its caller times out, and a second caller of the same read waits for it.
    """

    def __init__(self, store: Store, attester: Attester, trust: Trust, file_roots: tuple[Path, ...] = ()) -> None:
        self._store, self._attester, self._trust = store, attester, trust
        self._roots = file_roots
        self._threads = ThreadPoolExecutor(_READS, thread_name_prefix="admission")
        self._parts: dict[str, dict[str, int]] = {}
        self._reading: dict[str, Future[Any]] = {}

    async def _read(self, what: str, call: Callable[..., Any], *args: Any) -> Any:
        reading = self._reading.get(what)
        if reading is None or reading.done():
            reading = self._reading[what] = self._threads.submit(contextvars.copy_context().run, call, *args)
        answer = asyncio.wrap_future(reading)
        answer.add_done_callback(lambda ended: self._ended(what, ended))
        return await asyncio.shield(answer)

    def _ended(self, what: str, answer: "asyncio.Future[Any]") -> None:
        if not answer.cancelled():
            answer.exception()  # retrieved, so that asyncio does not report a read without a caller
        reading = self._reading.get(what)
        if reading is not None and reading.done():
            del self._reading[what]

    async def find_base(self, key: str) -> BaseManifest | None:
        """Return the manifest of an imported base model; None if there is none."""
        data = await self._read(key, self._store.find, key)
        return None if data is None else BaseManifest.model_validate_json(data)

    async def verify(self, ref: ArtifactRef) -> None:
        """Raise Permanent unless the artifact may be used and its stored bytes match the announcement.

        A folder on disk must exist below an allowed root and hold safetensors (artifact_not_found, pickle_refused,
        uri_not_allowed). The merger verifies the bytes of disk and hub folders when it copies them into the store.
        """
        scheme = scheme_of(ref.uri)
        if scheme == "hf":
            return
        if scheme == "file":
            await self._read(ref.uri, DiskFolder, ref.uri, self._roots)
            return
        await self._read(ref.model_dump_json(), self._store.get, ref)

    async def sizes(self, model: str) -> Mapping[str, int]:
        """Return the bytes stored for a model's checkpoints, merged models and variants, by digest or object key.

        Parts of unfinished uploads count, and replaced or deleted objects while the store keeps them; what versions
        share counts once. An unreadable manifest is logged and counts as 0, so that it does not block the team's
        admissions.
        """
        sizes: Mapping[str, int] = await self._read(f"sizes of {model}", self._sizes, model)
        return sizes

    def _sizes(self, model: str) -> Mapping[str, int]:
        sizes = self._store.bytes_below(f"checkpoints/{model}/")
        for key in self._store.keys(f"versions/{model}/"):
            if _MANIFEST.fullmatch(key):
                if key not in self._parts:
                    try:
                        self._parts[key] = self._read_parts(key)
                    except (ValidationError, Transient) as error:
                        if isinstance(error, Transient) and error.code != "object_unreadable":
                            raise
                        log = structlog.get_logger()
                        log.warning("a version does not count for its team's quota", key=key, error=repr(error)[:300])
                        continue
                sizes |= self._parts[key]
        return sizes

    def _read_parts(self, key: str) -> dict[str, int]:
        """Return the bytes of a version's merged model and variants, by manifest digest."""
        version = VersionManifest.model_validate_json(self._store.find(key) or b"{}")
        parts = {variant.manifest.digest: variant.weights_bytes for variant in version.variants}
        merged = self._store.find(self._store.key_of(version.merged.uri))
        if merged is not None:
            parts[version.merged.digest] = MergedManifest.model_validate_json(merged).weights_bytes
        return parts

    async def models(self) -> Sequence[str]:
        """Return the models that have versions."""
        folders: list[str] = await self._read("versions/", self._store.folders, "versions/")
        return [folder.removeprefix("versions/") for folder in folders]

    async def versions_of(self, model: str, releases: int = 16) -> StoredVersions:
        """Return a model's stored versions, with the releases of the newest `releases` versions."""
        what = f"{releases} versions of {model}"
        stored: StoredVersions = await self._read(what, self._versions, model, releases)
        return stored

    def _versions(self, model: str, most: int) -> StoredVersions:
        names = [folder.rpartition("/")[2] for folder in self._store.folders(f"versions/{model}/")]
        numbers = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
        manifests = []
        for number in numbers[:most]:
            try:
                history = read_version_history(self._store, self._trust.known(), model, number)
            except (Permanent, Transient) as error:
                if error.code == "store_unavailable":
                    raise
                structlog.get_logger().warning("a version is not taken from the store", reason=error.reason)
                continue
            manifests += [history.manifest] if history is not None else []
        releases = {manifest.release_id: manifest.version for manifest in reversed(manifests)}
        targets = (
            Target(model=model, version=manifest.version, variant=manifest.variants[0].variant)
            for manifest in manifests
        )
        newest = next(targets, None)
        return StoredVersions(numbers[0] if numbers else 0, releases, newest)

    async def find_figures(self, model: str, version: int) -> tuple[EvalResult, ...] | None:
        """Return the evaluation figures that the publisher stated for a version; None without a signed manifest."""
        figures: tuple[EvalResult, ...] | None = await self._read(
            f"figures of {model}@v{version}", self._figures, model, version
        )
        return figures

    def _figures(self, model: str, version: int) -> tuple[EvalResult, ...] | None:
        manifest = signed_version(self._store, self._trust.known(), model, version)
        if isinstance(manifest, VersionManifest):
            return manifest.evals
        structlog.get_logger().warning("a version is not taken from the store", reason=manifest.reason)
        return None

    async def put_version(self, manifest: VersionManifest) -> ArtifactRef:
        """Write and sign a version's manifest, create-only; return the ref of the stored one.

        Raises:
            Permanent: `digest_mismatch` if a different manifest is stored.
        """
        return await asyncio.to_thread(self._put_version, manifest)

    def _put_version(self, manifest: VersionManifest) -> ArtifactRef:
        key = f"versions/{manifest.model}/{manifest.version}/manifest.json"
        ref, created = self._store.put_manifest(key, manifest)
        if not created:
            there = VersionManifest.model_validate_json(self._store.get(ref))
            if there.model_copy(update={"registered_at": manifest.registered_at}) != manifest:
                reason = f"{ref.uri} is not the manifest of release {manifest.release_id}, and no other is signed."
                raise Permanent("digest_mismatch", reason)
        parts = {
            "merged": manifest.merged,
            **{f"variant {variant.variant}": variant.manifest for variant in manifest.variants},
        }
        materials = [
            Material(name="base", digest=manifest.base.digest, uri=manifest.base.uri),
            Material(name=manifest.weights.kind, digest=manifest.weights.ref.digest, uri=manifest.weights.ref.uri),
            *(Material(name=name, digest=part.digest, uri=part.uri) for name, part in parts.items()),
        ]
        imported = self._store.find(self._store.key_of(manifest.base.uri))
        if imported is not None:  # links the version to the import of its base
            materials.append(Material(name=BASE_IMPORT, digest=digest_of(imported), uri=manifest.base.uri))
        about = Subjects(named={key: ref.digest}, materials=tuple(materials), follows=self._followed(manifest))
        details = {"release": manifest.release_id, "training_data": manifest.training.data_hash}
        self._chain(manifest.model, manifest.version).append(self._attester, "register", about, details)
        self._sign_files(manifest)
        return ref

    def _sign_files(self, manifest: VersionManifest) -> None:
        """Sign each variant's files in a format that programs other than Slipway verify."""
        for variant in manifest.variants:
            try:
                files = VariantManifest.model_validate_json(self._store.get(variant.manifest)).files
            except (Permanent, ValidationError):
                continue  # a missing or unreadable variant manifest has nothing to sign
            name = str(Target(model=manifest.model, version=manifest.version, variant=variant.variant))
            key = signature_key(manifest.model, manifest.version, variant.variant)
            self._store.put_manifest(key, sign_files(self._attester, name, files))

    def _followed(self, manifest: VersionManifest) -> tuple[str, ...]:
        """Return the digests of the valid `merge` and `quantise` attestations that a version builds on."""
        keys = self._trust.keys()
        attested = [find_attestation(self._store, keys, "merge", manifest.merged)]
        attested += [find_attestation(self._store, keys, "quantise", variant.manifest) for variant in manifest.variants]
        return tuple(attestation.digest for attestation in attested if isinstance(attestation, Signed))

    async def put_approval(self, record: ApprovalRecord) -> None:
        """Append an approval to the version's attestations, once."""
        await asyncio.to_thread(self._put_approval, record)

    def _put_approval(self, record: ApprovalRecord) -> None:
        target = record.target
        name = digest_of(record.order_id.encode()).removeprefix("sha256:")[:24]
        ref, _ = self._store.put_manifest(f"versions/{target.model}/{target.version}/approvals/{name}.json", record)
        there = ApprovalRecord.model_validate_json(self._store.get(ref))
        if there != record:
            reason = f"{ref.uri} is not the approval {record.order_id}, and no other is attested."
            raise Permanent("digest_mismatch", reason)
        details = {"target": str(target), "by": record.approved_by}
        chain = self._chain(target.model, target.version)
        chain.append(self._attester, "approve", Subjects(named={ref.uri: ref.digest}), details)

    async def erase_text(self, model: str, version: int, kind: ErasedText) -> tuple[str, ...]:
        """Erase a version's evaluation or held-out text; return the digests of all files erased so far.

        Raises:
            Permanent: `artifact_not_found` if there is no such version.
        """
        return await asyncio.to_thread(erase_text, self._store, model, version, kind)

    async def put_deployment(self, record: DeploymentRecord) -> None:
        """Append a deployment record, create-only; an existing record stays unchanged.

        A lost or restored route repeats epochs: a record with another cause and time gets a second key for its epoch.
        """
        await asyncio.to_thread(self._put_deployment, record)

    def _put_deployment(self, record: DeploymentRecord) -> None:
        key = f"versions/{record.target.model}/{record.target.version}/deployments/{record.epoch}"
        ref, created = self._store.put_manifest(f"{key}.json", record)
        there = record if created else DeploymentRecord.model_validate_json(self._store.get(ref))
        if there.cause_id != record.cause_id and there.deployed_at != record.deployed_at:
            cause = digest_of(record.cause_id.encode()).removeprefix("sha256:")[:12]
            ref, created = self._store.put_manifest(f"{key}-{cause}.json", record)
            there = record if created else DeploymentRecord.model_validate_json(self._store.get(ref))
        if there == record and record.target.version > 0:  # the base model is no version, and has no chain
            details = {"target": str(record.target), "epoch": record.epoch, "cause": record.cause}
            chain = self._chain(record.target.model, record.target.version)
            chain.append(self._attester, "deploy", Subjects(named={ref.uri: ref.digest}), details)

    def _chain(self, model: str, version: int) -> Chain:
        return Chain(self._store, model, version)

    async def check(self) -> None:
        """Raise if the store does not answer."""
        await asyncio.to_thread(self._store.reachable)
