"""Storage of attestations: beside their artifact, and in the chain of a version."""

import base64
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel

from contracts.provenance.attestations import AttesterKey
from contracts.provenance.steps import Step
from contracts.vocabulary import ArtifactRef, digest_of
from decisions.releases.provenance import Problem, assess_allowed, assess_link, assess_statement, trust_epoch
from shared.errors import Permanent, Transient
from shared.provenance.envelopes import Attester, Signed, Subjects, Trust, open_envelope
from shared.storage.blobs import Store, manifest_bytes, manifest_key
from shared.storage.objects import AlreadyExists

NOTHING = Subjects()
_LINK = re.compile(r"([0-9]{6})\.json", re.ASCII)
_ATTEMPTS = 20
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class AttestedCommits:
    """Commits manifests that one service makes in one step, each with its attestation."""

    store: Store
    attester: Attester
    step: Step
    trust: Trust

    def key(self, kind: str, output_key: str, prefix: str = "") -> str:
        """Return the key of an output's manifest.

        It changes when a key of this step is revoked: earlier outputs are then made and attested again, because nothing
        can attest existing bytes afterwards.

        Raises:
            Transient: `key_not_trusted` if the list of keys cannot be read.
        """
        try:
            epoch = trust_epoch(self.trust.keys(), self.step)
        except Permanent as error:
            raise Transient(error.code, error.reason) from error
        if epoch:
            output_key = digest_of(f"{output_key}, {epoch} keys revoked".encode())
        return manifest_key(kind, output_key, prefix)

    def commit(self, key: str, manifest: M, about: Subjects = NOTHING) -> tuple[M, ArtifactRef]:
        """Attest a manifest, then commit it, create-only; return the committed one, maybe another process's.

        In this order no manifest is committed without its attestation. An existing manifest is not attested: another
        writer may have put it there.

        Args:
            key: Key of the manifest.
            manifest: The manifest.
            about: Its materials.
        """
        digest = digest_of(manifest_bytes(manifest))
        self.attest(digest, replace(about, named={key: digest}), self.store.prefix_of_key(key))
        return self.store.commit(key, manifest)

    def attest(self, digest: str, about: Subjects, prefix: str = "") -> None:
        """Store an attestation of an artifact, unless this key has attested it already."""
        self.store.put_manifest(self._own_key(digest, prefix), self.attester.sign(self.step, about))

    def has_attested(self, ref: ArtifactRef) -> bool:
        """Return whether this key has attested an artifact."""
        data = self.store.find(self._own_key(ref.digest, self.store.prefix_of(ref)))
        own = [self.attester.listed()]
        return data is not None and isinstance(open_attestation(data, own, self.step, ref.digest), Signed)

    def _own_key(self, digest: str, prefix: str) -> str:
        return f"{artifact_prefix(self.step, digest, prefix)}{self.attester.key_id[:16]}.json"


def artifact_prefix(step: Step, digest: str, prefix: str = "") -> str:
    """Return the prefix of a step's attestations of an artifact: `<prefix>attestations/<step>/<hex>/`."""
    return f"{prefix}attestations/{step}/{digest.removeprefix('sha256:')}/"


def find_attestation(
    store: Store, keys: Iterable[AttesterKey], step: Step, ref: ArtifactRef, allowed: Collection[str] = ()
) -> Signed | Problem:
    """Return the newest valid attestation of a step about an artifact; else the reason why there is none.

    Args:
        store: The object store.
        keys: The listed keys.
        step: The step.
        ref: The artifact.
        allowed: Services and key ids that the version's policy accepts for this step; empty for every listed key.
    """
    problem = Problem("attestation_missing", f"There is no {step} attestation of {ref.uri} ({ref.digest}).")
    signed: list[Signed] = []
    for key in store.keys(artifact_prefix(step, ref.digest, store.prefix_of(ref))):
        opened = open_attestation(store.find(key) or b"", keys, step, ref.digest)
        if isinstance(opened, Signed):
            opened = assess_allowed(opened.key, step, allowed) or opened
        if isinstance(opened, Signed):
            signed.append(opened)
        else:
            problem = Problem(opened.code, f"{key}: {opened.reason}")
    return max(signed, key=lambda attestation: attestation.claim.attested_at) if signed else problem


def open_attestation(data: bytes, keys: Iterable[AttesterKey], step: Step, digest: str) -> Signed | Problem:
    """Return an envelope's statement if it attests a step of the artifact with this digest, else the problem."""
    opened = open_envelope(data, keys)
    if isinstance(opened, Problem):
        return opened
    return assess_statement(opened.statement, step=step, digest=digest) or opened


@dataclass(frozen=True)
class Chain:
    """The attestations of a version, chained by digest; the first attests the registration."""

    store: Store
    model: str
    version: int

    @property
    def prefix(self) -> str:
        """Return the prefix of the links."""
        return f"versions/{self.model}/{self.version}/attestations/"

    def key(self, number: int) -> str:
        """Return the key of a link, from 1."""
        return f"{self.prefix}{number:06d}.json"

    def numbers(self) -> list[int]:
        """Return the numbers of all stored links, ascending; a gap is a removed or missing link."""
        return sorted(number for key in self.store.keys(self.prefix) if (number := _number(key)) > 0)

    def length(self) -> int:
        """Return the number of the last link before the first gap; 0 if there is none."""
        return sum(number == position for position, number in enumerate(self.numbers(), 1))

    def read(self, keys: Iterable[AttesterKey], number: int, previous: str | None) -> Signed | Problem:
        """Return a link if it is signed and follows the envelope with the digest `previous`, else the problem."""
        key = self.key(number)
        data = self.store.find(key)
        if data is None:
            return Problem("attestation_missing", f"{key} does not exist.")
        opened = open_envelope(data, keys)
        if isinstance(opened, Problem):
            return Problem(opened.code, f"{key}: {opened.reason}")
        problem = assess_link(opened.claim, number=number, previous=previous)
        return opened if problem is None else Problem(problem.code, f"{key}: {problem.reason}")

    def append(self, attester: Attester, step: Step, about: Subjects, details: dict[str, Any] | None = None) -> bool:
        """Append a statement; return False if this key has attested this step of these subjects already.

        Number and predecessor in `about` are filled in.

        Raises:
            Transient: `store_unavailable`, also after `_ATTEMPTS` conflicts.
        """
        digests = {digest.removeprefix("sha256:") for digest in about.named.values()}
        for _ in range(_ATTEMPTS):
            last = self.length()
            links = [self.store.find(self.key(number)) or b"{}" for number in range(1, last + 1)]
            if any(_is_about(link, step, digests) and attester.signed(link) for link in links):
                return False
            previous = digest_of(links[-1]) if links else None
            placed = replace(about, previous=previous, number=last + 1)
            try:
                self.store.create(self.key(last + 1), attester.sign(step, placed, details))
            except AlreadyExists:
                continue  # another replica appended a link
            return True
        raise Transient("store_unavailable", f"{self.prefix} changed {_ATTEMPTS} times while a link was appended.")


def _number(key: str) -> int:
    """Return the number of a link; 0 for other objects, which do not affect positions."""
    link = _LINK.fullmatch(key.rpartition("/")[2])
    return int(link[1]) if link is not None else 0


def _is_about(envelope: bytes, step: Step, digests: set[str]) -> bool:
    """Return whether an envelope is a statement of a step about these subjects, without verifying its signature."""
    try:
        statement = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        subjects = {subject["digest"].get("sha256") for subject in statement["subject"]}
        return bool(statement["predicate"]["step"] == step and subjects == digests)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
