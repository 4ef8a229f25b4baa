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
        """Return where the manifest of an output is committed.

        Once a key of this step was revoked it is another object: what was made before is not found, and is made again
        and attested by the new key. No service can attest afterwards that bytes which are merely there are right.

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
        """Attest a manifest, then commit it, create-only; return the committed one, which may be another process's.

        In this order no manifest is committed without its attestation, wherever the process is killed. What is found
        committed is never attested afterwards: another writer may have put it there.

        Args:
            key: Where the manifest is committed.
            manifest: The manifest.
            about: What went into it.
        """
        digest = digest_of(manifest_bytes(manifest))
        self.attest(digest, replace(about, named={key: digest}), self.store.prefix_of_key(key))
        return self.store.commit(key, manifest)

    def attest(self, digest: str, about: Subjects, prefix: str = "") -> None:
        """Store an attestation of an artifact, unless this key has attested it already."""
        self.store.put_manifest(self._own_key(digest, prefix), self.attester.sign(self.step, about))

    def has_attested(self, ref: ArtifactRef) -> bool:
        """Return whether an attestation by this very key says that it made an artifact."""
        data = self.store.find(self._own_key(ref.digest, self.store.prefix_of(ref)))
        own = [self.attester.listed()]
        return data is not None and isinstance(open_attestation(data, own, self.step, ref.digest), Signed)

    def _own_key(self, digest: str, prefix: str) -> str:
        return f"{artifact_prefix(self.step, digest, prefix)}{self.attester.key_id[:16]}.json"


def artifact_prefix(step: Step, digest: str, prefix: str = "") -> str:
    """Return where the attestations of a step about an artifact are: `<prefix>attestations/<step>/<hex>/`."""
    return f"{prefix}attestations/{step}/{digest.removeprefix('sha256:')}/"


def find_attestation(
    store: Store, keys: Iterable[AttesterKey], step: Step, ref: ArtifactRef, allowed: Collection[str] = ()
) -> Signed | Problem:
    """Return the newest valid attestation of a step about an artifact; else the reason why there is none.

    Args:
        store: Where it is.
        keys: The listed keys.
        step: The step.
        ref: The artifact.
        allowed: Services and key ids that a version's policy lets attest this step; empty: every listed key.
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
    """Return an envelope's statement if it attests a step of the artifact with this digest; else why not."""
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
        """Return where the links are."""
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
        """Return a link if it is signed and follows the envelope with the digest `previous`; else why not."""
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

        `about` needs no position and no predecessor: both are filled in.

        Raises:
            Transient: `store_unavailable`, also if the chain changes all the time.
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
