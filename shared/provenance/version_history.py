"""Reads a version and its attested records from the store."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from contracts.manifests import (
    ApprovalRecord,
    BenchmarkReport,
    DeploymentRecord,
    EvaluationReport,
    RehearsalRecord,
    VersionManifest,
)
from contracts.provenance.attestations import AttesterKey
from contracts.vocabulary import digest_of
from decisions.releases.provenance import Problem
from decisions.releases.version_history import VersionHistory
from shared.errors import Permanent
from shared.provenance.attestations import Chain
from shared.provenance.envelopes import Signed
from shared.storage.blobs import Store

M = TypeVar("M", bound=BaseModel)


def read_version_history(store: Store, keys: Sequence[AttesterKey], model: str, number: int) -> VersionHistory | None:
    """Return a version with its records; None if it is not registered.

    A record is included if its attestation is signed by a listed key and follows the previous one, and the stored bytes
    have the signed digest.

    Raises:
        Permanent: `digest_mismatch` if the manifest is not the registered bytes.
        Transient: `store_unavailable`.
    """
    key = f"versions/{model}/{number}/manifest.json"
    data = store.find(key)
    if data is None:
        return None
    manifest = _parse(VersionManifest, data)
    if manifest is None or (manifest.model, manifest.version) != (model, number):
        raise Permanent("digest_mismatch", f"{key} is no manifest of {model}@v{number}.")
    links, problem = _read_chain(Chain(store, model, number), keys)
    if not links or digest_of(data) not in links[0].statement.digests:
        reason = problem or f"{key} is {digest_of(data)}, which no registration attests."
        raise Permanent("digest_mismatch", f"{model}@v{number} is not what was registered: {reason}")
    return VersionHistory(
        manifest=manifest,
        digest=digest_of(data),
        benchmarks=_attested(store, links, "benchmark", BenchmarkReport),
        evaluations=_attested(store, links, "evaluate", EvaluationReport),
        rehearsals=_attested(store, links, "rehearse", RehearsalRecord),
        approvals=_attested(store, links, "approve", ApprovalRecord),
        deployments=tuple(
            sorted(
                _attested(store, links, "deploy", DeploymentRecord),
                key=lambda record: (record.deployed_at, record.epoch),
            )
        ),
        problem=problem,
    )


def read_evaluations(
    store: Store, keys: Sequence[AttesterKey], model: str, number: int
) -> tuple[EvaluationReport, ...]:
    """Return the attested reports of a version's evaluations, in the order of their attestations."""
    links, _ = _read_chain(Chain(store, model, number), keys)
    return _attested(store, links, "evaluate", EvaluationReport)


def _read_chain(chain: Chain, keys: Sequence[AttesterKey]) -> tuple[list[Signed], str]:
    """Return the links up to the first invalid one, and its problem."""
    links: list[Signed] = []
    previous = None
    for number in range(1, chain.length() + 1):
        link = chain.read(keys, number, previous)
        if isinstance(link, Problem):
            return links, link.reason
        links.append(link)
        previous = link.digest
    return links, ""


def _attested(store: Store, links: Sequence[Signed], step: str, kind: type[M]) -> tuple[M, ...]:
    """Return the records named by links of a step, verified against the signed digests."""
    records = []
    for link in links:
        for subject in link.statement.subject if link.claim.step == step else ():
            data = _read(store, subject.name)
            record = None
            if data is not None and digest_of(data) == f"sha256:{subject.digest.get('sha256')}":
                record = _parse(kind, data)
            if record is not None:
                records.append(record)
    return tuple(records)


def _read(store: Store, uri: str) -> bytes | None:
    """Return the object at a URI; None if it is in another bucket."""
    try:
        return store.find(store.key_of(uri))
    except Permanent:
        return None


def _parse(kind: type[M], data: bytes) -> M | None:
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None
