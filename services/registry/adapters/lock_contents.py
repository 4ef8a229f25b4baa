"""Which objects a version needs to be served and proven: those are put under lock. Texts that can be erased are not."""

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from contracts.facts import BaseModelRef, Weights
from contracts.manifests import (
    BaseManifest,
    FileEntry,
    FolderManifest,
    MergedManifest,
    VariantManifest,
    VersionManifest,
)
from contracts.provenance import AttesterKey
from contracts.sources import scheme_of
from contracts.vocabulary import ArtifactRef, Deployable
from decisions.provenance import Problem
from shared.errors import Permanent
from shared.provenance.attestations import Chain, artifact_prefix
from shared.provenance.lock_records import lock_prefix, pin_version
from shared.provenance.target_check import version_on_base
from shared.storage.blobs import SOURCES, Store, blob_key, manifest_key


@dataclass(frozen=True)
class Needed:
    """An object, with its size and digest where manifests name them."""

    key: str
    size_bytes: int | None = None
    digest: str | None = None


@dataclass
class Contents:
    """The objects of a version, in a walk over its manifests.

    Attributes:
        keys: The listed keys of attesters.
        needed: What was found, by key.
        problems: Why a part is not known.
    """

    store: Store
    keys: Sequence[AttesterKey]
    needed: dict[str, Needed] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _erasable: set[str] = field(default_factory=set)

    def of(self, served: Sequence[Deployable]) -> list[Needed]:
        """Return what the version needs that these targets belong to; files of served variants only."""
        target = served[0].target
        if target.version == 0:
            for deployable in served:
                self._base_files(deployable.manifest)
                self._proof_of_base(deployable)
        else:
            self._version(target.model, target.version, {deployable.target.variant for deployable in served})
        return [needed for key, needed in sorted(self.needed.items()) if key not in self._erasable]

    def _version(self, model: str, number: int, variants: set[str]) -> None:
        prefix = f"versions/{model}/{number}/"
        for key in self.store.keys(prefix):
            if not key.startswith(lock_prefix(model, number)):
                self._add(key)
        with self._part():
            manifest = VersionManifest.model_validate_json(self.store.find(f"{prefix}manifest.json") or b"")
            self._chain(Chain(self.store, model, number))
            for variant in manifest.variants:
                self._variant(variant.manifest, files=variant.variant in variants)
            self._merged(manifest.merged)
            self._weights(manifest.weights)
            self._base(manifest.base)

    def _chain(self, chain: Chain) -> None:
        """Add what links are about: reports of benchmarks are stored elsewhere."""
        for number in chain.numbers():
            for name, digest in _subjects(self.store.find(chain.key(number)) or b""):
                with contextlib.suppress(Permanent):  # a name that is no URI of this bucket
                    self._add(self.store.key_of(name), digest=digest)
                    self._below(artifact_prefix("benchmark", digest))

    def _variant(self, ref: ArtifactRef, *, files: bool) -> None:
        with self._part():
            manifest, prefix = VariantManifest.model_validate_json(self._get(ref)), self.store.prefix_of(ref)
            self._below(artifact_prefix("quantise", ref.digest, prefix))
            if manifest.held_out_text is not None:
                self._erasable.add(blob_key(manifest.held_out_text.digest, prefix))
            if files:
                self._files(manifest.files, prefix)

    def _merged(self, ref: ArtifactRef) -> None:
        with self._part():
            manifest, prefix = MergedManifest.model_validate_json(self._get(ref)), self.store.prefix_of(ref)
            self._below(artifact_prefix("merge", ref.digest, prefix))
            self._files(manifest.files, prefix)
            if manifest.settings_of is not None:
                self._get(manifest.settings_of)

    def _weights(self, weights: Weights) -> None:
        ref = weights.ref
        with self._part():
            if scheme_of(ref.uri) is not None:  # brought into the store by the merger, under their digest
                ref = self.store.ref_to(manifest_key("folder", ref.digest, SOURCES))
            self._folder(ref)

    def _base(self, base: BaseModelRef) -> None:
        with self._part():
            self._base_files(self.store.ref_to(self.store.key_of(base.uri)))

    def _proof_of_base(self, deployable: Deployable) -> None:
        """Add what proves a base model that serves: the signed manifest of a version that was trained on it."""
        number = version_on_base(self.store, self.keys, deployable, oldest=True)
        if isinstance(number, Problem):
            self.problems.append(f"{deployable.target} is not proven: {number.reason}")
            return
        model = deployable.target.model
        proof = pin_version(self.store, self.keys, model, number)
        for key in (f"versions/{model}/{number}/manifest.json", Chain(proof, model, number).key(1)):
            ref = proof.ref_to(key)
            self._add(key, ref.size_bytes, ref.digest)

    def _base_files(self, ref: ArtifactRef) -> None:
        """Add a base model by the manifest of its import, or of its folder."""
        with self._part():
            if json.loads(self.store.get(ref)).get("kind") == "folder":
                self._folder(ref)
            else:
                self._folder(BaseManifest.model_validate_json(self._get(ref)).folder)

    def _folder(self, ref: ArtifactRef) -> None:
        self._files(FolderManifest.model_validate_json(self._get(ref)).files, self.store.prefix_of(ref))

    def _files(self, files: Iterable[FileEntry], prefix: str) -> None:
        for file in files:
            self._add(blob_key(file.digest, prefix), file.size_bytes, file.digest)

    def _get(self, ref: ArtifactRef) -> bytes:
        self._add(self.store.key_of(ref.uri), ref.size_bytes, ref.digest)
        return self.store.get(ref)

    def _below(self, prefix: str) -> None:
        for key in self.store.keys(prefix):
            self._add(key)

    def _add(self, key: str, size_bytes: int | None = None, digest: str | None = None) -> None:
        if digest is not None or key not in self.needed:
            self.needed[key] = Needed(key, size_bytes, digest)

    @contextlib.contextmanager
    def _part(self) -> Iterator[None]:
        """Note why a part is not known, and go on with the others."""
        try:
            yield
        except Permanent as error:
            self.problems.append(error.reason)
        except (ValidationError, ValueError, AttributeError) as error:
            self.problems.append(f"A manifest cannot be read: {str(error).splitlines()[0]}.")


def _subjects(envelope: bytes) -> list[tuple[str, str]]:
    """Return names and digests of what an attestation is about; unverified, and none if it cannot be read."""
    try:
        statement = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        return [(subject["name"], f"sha256:{subject['digest']['sha256']}") for subject in statement["subject"]]
    except (ValueError, KeyError, TypeError):
        return []
