"""Verifies a version, its inputs and every step between them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from contracts.facts import BaseModelRef, RegisteredVariant, Weights
from contracts.manifests import (
    BaseManifest,
    FileEntry,
    FolderManifest,
    MergedManifest,
    VariantManifest,
    VersionManifest,
)
from contracts.provenance.attestations import BASE_IMPORT, AttesterKey
from contracts.provenance.steps import Step
from contracts.storage.sources import scheme_of
from contracts.vocabulary import ArtifactRef, Target, Variant, digest_of
from decisions.releases.provenance import Problem
from shared.errors import Permanent, Transient
from shared.provenance.attestations import Chain, find_attestation
from shared.provenance.envelopes import Signed
from shared.provenance.model_signatures import assess_signature, signature_key
from shared.storage.blobs import SOURCES, Store, manifest_key

M = TypeVar("M", bound=BaseModel)
Verdict = Literal["proven", "stated", "failed"]


@dataclass(frozen=True)
class Finding:
    """The result of verifying one step.

    Attributes:
        what: The step or the artifact.
        verdict: `proven`: the bytes exist, attested by an authorised key. `stated`: in a signed manifest, but not
            observed by Slipway. `failed`: altered, missing, or not attested.
        detail: Signer and time, or the error and its location.
    """

    what: str
    verdict: Verdict
    detail: str


@dataclass
class Verification:
    """One verification; each blob is read once.

    Attributes:
        read_files: Whether blobs are read; manifests, attestations and records always are.
        progress: Called with the path of each file before it is read.
        manifest: The version's manifest; None before it was read.
    """

    store: Store
    keys: Sequence[AttesterKey]
    read_files: bool = True
    progress: Callable[[str], None] = lambda _what: None
    findings: list[Finding] = field(default_factory=list)
    manifest: VersionManifest | None = None
    _checked: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def version(self, model: str, number: int, variant: str | None = None) -> tuple[Finding, ...]:
        """Return the findings about a version, or one of its variants; raise Permanent for an unknown version."""
        key = f"versions/{model}/{number}/manifest.json"
        data = self.store.find(key)
        if data is None:
            raise Permanent("artifact_not_found", f"{model} has no version {number}.")
        registration = None
        with self._reading("attestations"):
            registration = self._chain(Chain(self.store, model, number), key, digest_of(data))
        manifest = self.manifest = self._parse(VersionManifest, data, key)
        if manifest is None:
            return tuple(self.findings)
        for registered in manifest.variants:
            if variant in (None, registered.variant):
                with self._reading(f"variant {registered.variant}"):
                    self._variant(manifest, registered)
        with self._reading("merged model"):
            self._merged(manifest)
        with self._reading(f"{manifest.weights.kind} weights"):
            self._weights(manifest.weights)
        with self._reading(f"base model {manifest.base.name}"):
            self._base(manifest.base, registration)
        run = f"run {manifest.training.run_id}, as its publisher stated; Slipway does not see the training data"
        self._note("training data", "stated", f"{manifest.training.data_hash}, {run}")
        return tuple(self.findings)

    # -- the chain of the version -------------------------------------------------------------------------------------

    def _chain(self, chain: Chain, key: str, digest: str) -> Signed | None:
        """Check all links, and return the first, the registration; None if it is not valid."""
        registration: Signed | None = None
        previous: str | None = None
        recorded = set()
        numbers = chain.numbers()
        for number in sorted({1, *numbers}):
            if number > 1 and number - 1 not in numbers:
                self._note(f"attestation {number - 1}", "failed", f"{chain.key(number - 1)} does not exist.")
            link = chain.read(self.keys, number, previous)
            previous = digest_of(self.store.find(chain.key(number)) or b"")
            if isinstance(link, Problem):
                self._note(f"attestation {number}", "failed", link.reason)
            elif number == 1:
                registration = link
                self._registration(link, key, digest)
            else:
                recorded |= self._link(link, number)
        prefix = f"versions/{chain.model}/{chain.version}/deployments/"
        for record in self.store.keys(prefix):
            if self.store.uri(record) not in recorded:
                self._note(f"deployment {record.removeprefix(prefix)}", "failed", f"{record} is not attested.")
        return registration

    def _registration(self, link: Signed, key: str, digest: str) -> None:
        if link.claim.step != "register":
            self._note("version manifest", "failed", f"The chain begins with {link.claim.step}, not with register.")
        elif digest not in link.statement.digests:
            self._note("version manifest", "failed", f"{key} is {digest}, signed was {link.statement.digests[0]}.")
        else:
            self._note("version manifest", "proven", f"{digest}, {_signed(link)}")

    def _link(self, link: Signed, number: int) -> set[str]:
        """Check the subjects of a link after the first, and return their URIs."""
        subjects = {subject.name: f"sha256:{subject.digest.get('sha256')}" for subject in link.statement.subject}
        what = f"{link.claim.step} ({number})"
        for uri, digest in subjects.items():
            problem = self._altered(uri, digest)
            details = ", ".join(f"{name} {value}" for name, value in link.claim.details.items())
            self._note(what, "failed" if problem else "proven", problem or f"{details}, {_signed(link)}")
        return set(subjects)

    def _altered(self, uri: str, digest: str) -> str | None:
        """Return the difference of a small artifact from its attestation, or None."""
        try:
            data = self.store.find(self.store.key_of(uri))
        except Permanent as error:
            return error.reason
        if data is None:
            return f"{uri} does not exist."
        return None if digest_of(data) == digest else f"{uri} is {digest_of(data)}, attested was {digest}."

    # -- what it is made of -------------------------------------------------------------------------------------------

    def _variant(self, version: VersionManifest, registered: RegisteredVariant) -> None:
        what = f"variant {registered.variant}"
        materials = {"merged": version.merged.digest}
        manifest = self._attested(what, registered.manifest, VariantManifest, "quantise", materials)
        if manifest is None:
            return
        prefix = self.store.prefix_of(registered.manifest)
        self._model_signature(what, version, registered.variant, manifest.files)
        self._files(what, manifest.files, prefix)
        if manifest.held_out_text is not None:
            self._held_out(what, manifest.held_out_text, prefix)

    def _model_signature(
        self, what: str, version: VersionManifest, variant: Variant, files: Sequence[FileEntry]
    ) -> None:
        key = signature_key(version.model, version.version, variant)
        name = str(Target(model=version.model, version=version.version, variant=variant))
        data = self.store.find(key)
        missing = Problem("attestation_missing", "It does not exist.")
        problem = missing if data is None else assess_signature(data, self.keys, name, files)
        detail = "signs these files (OpenSSF model signing)" if problem is None else problem.reason
        self._note(f"{what}, model signature", "failed" if problem else "proven", f"{key}: {detail}")

    def _held_out(self, what: str, file: FileEntry, prefix: str) -> None:
        problem = self._check(file, prefix)
        if problem is None or "does not exist" not in problem:
            self._note(f"{what}, held-out text", "failed" if problem else "proven", problem or file.digest)
        else:
            self._note(
                f"{what}, held-out text",
                "stated",
                f"{file.digest}; the text is gone: `slipway audit` says who erased it",
            )

    def _merged(self, version: VersionManifest) -> None:
        materials = {"base": version.base.digest, version.weights.kind: version.weights.ref.digest}
        manifest = self._attested("merged model", version.merged, MergedManifest, "merge", materials)
        if manifest is not None:
            self._files("merged model", manifest.files, self.store.prefix_of(version.merged))

    def _attested(self, what: str, ref: ArtifactRef, kind: type[M], step: Step, materials: dict[str, str]) -> M | None:
        """Check a manifest, its attestation and materials; return it if it can be read."""
        try:
            data = self.store.get(ref)
        except Permanent as error:
            self._note(what, "failed", error.reason)
            return None
        link = find_attestation(self.store, self.keys, step, ref)
        if isinstance(link, Problem):
            self._note(what, "failed", link.reason)
        else:
            stated = {material.name: material.digest for material in link.claim.materials}
            other = [name for name, digest in materials.items() if stated.get(name) != digest]
            about = f"It was made of another {', '.join(other)} than the version names."
            self._note(what, "failed" if other else "proven", about if other else f"{ref.digest}, {_signed(link)}")
        return self._parse(kind, data, ref.uri)

    def _weights(self, weights: Weights) -> None:
        what, ref = f"{weights.kind} weights", weights.ref
        if scheme_of(ref.uri) is not None:  # brought into the store by the merger, under their digest
            key = manifest_key("folder", ref.digest, SOURCES)
            size_bytes = len(self.store.find(key) or b"")
            ref = ArtifactRef(uri=self.store.uri(key), digest=ref.digest, size_bytes=size_bytes)
        self._folder(what, ref)

    def _base(self, base: BaseModelRef, registration: Signed | None) -> None:
        what = f"base model {base.name}"
        data = self.store.find(self.store.key_of(base.uri))
        if data is None:
            self._note(what, "failed", f"{base.uri} does not exist.")
            return
        ref = ArtifactRef(uri=base.uri, digest=base.digest, size_bytes=len(data))
        if digest_of(data) != base.digest:  # the manifest of its import, which names the folder
            manifest = self._parse(BaseManifest, data, base.uri)
            if manifest is None:
                return
            ref = manifest.folder
            materials = registration.claim.materials if registration is not None else ()
            signed = [material.digest for material in materials if material.name == BASE_IMPORT]
            if signed != [digest_of(data)]:
                detail = f"{base.uri} is {digest_of(data)}, signed was {', '.join(signed) or 'nothing'}."
                self._note(f"{what}, import", "failed", detail)
            if ref.digest != base.digest:
                self._note(what, "failed", f"{base.uri} names {ref.digest}, the version was trained on {base.digest}.")
                return
        self._folder(what, ref)

    def _folder(self, what: str, ref: ArtifactRef) -> None:
        try:
            data = self.store.get(ref)
        except Permanent as error:
            self._note(what, "failed", error.reason)
            return
        self._note(what, "proven", f"{ref.digest}, named by the signed manifest")
        folder = self._parse(FolderManifest, data, ref.uri)
        if folder is not None:
            self._files(what, folder.files, self.store.prefix_of(ref))

    # -- blobs --------------------------------------------------------------------------------------------------------

    def _files(self, what: str, files: Iterable[FileEntry], prefix: str) -> None:
        if not self.read_files:
            return
        count, size_bytes, failed = 0, 0, False
        for file in files:
            count, size_bytes = count + 1, size_bytes + file.size_bytes
            problem = self._check(file, prefix)
            if problem is not None:
                failed = True
                self._note(f"{what}, {file.path}", "failed", problem)
        if not failed:
            self._note(
                f"{what}, files", "proven", f"{count} files, {size_bytes / 1e6:.1f} MB, all as the manifest says"
            )

    def _check(self, file: FileEntry, prefix: str) -> str | None:
        """Return the difference of a blob from its manifest, or None."""
        key = (file.digest, prefix)
        if key not in self._checked:
            self.progress(file.path)
            try:
                self.store.check_blob(file, prefix)
            except Permanent as error:
                missing = error.code == "artifact_not_found"
                self._checked[key] = f"{file.path} ({file.digest}) does not exist." if missing else error.reason
            except Transient as error:
                if error.code != "object_unreadable":
                    raise
                self._checked[key] = error.reason
            else:
                self._checked[key] = None
        return self._checked[key]

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Note an unreadable object as failed, and continue."""
        try:
            yield
        except Transient as error:
            if error.code != "object_unreadable":
                raise
            self._note(what, "failed", error.reason)

    def _parse(self, kind: type[M], data: bytes, where: str) -> M | None:
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            self._note(where, "failed", f"{where} is no {kind.__name__}: {error.errors()[0]['msg']}.")
            return None

    def _note(self, what: str, verdict: Verdict, detail: str) -> None:
        self.findings.append(Finding(what, verdict, detail))


def _signed(link: Signed) -> str:
    return f"signed by {link.claim.attester} ({link.key.key_id[:16]}) at {link.claim.attested_at:%Y-%m-%d %H:%M:%S} UTC"
