"""Checks before traffic: every attestation that a version requires must exist for the variant."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from contracts.manifests import ApprovalRecord, BenchmarkReport, EvaluationReport, RehearsalRecord
from contracts.provenance.attestations import AttesterKey
from contracts.provenance.steps import RequiredAttestations, RequiredStep
from contracts.vocabulary import Deployable, digest_of
from decisions.releases.provenance import Problem, assess_allowed
from shared.errors import Permanent
from shared.provenance.attestations import Chain
from shared.provenance.envelopes import Signed
from shared.provenance.signed_versions import check_target, signed_version
from shared.storage.blobs import Store

M = TypeVar("M", bound=BaseModel)
_DONE = {
    "benchmark": "no benchmark that it passed is attested",
    "evaluate": "no evaluation that it passed is attested",
    "rehearse": "no rehearsal that it passed is attested",
    "approve": "its approval is not attested",
}


def check_traffic(store: Store, keys: Sequence[AttesterKey], deployable: Deployable) -> Problem | None:
    """Return why a target may not take traffic; None if it may.

    The base model (version 0) is measured and approved as the fallback of a version, not by itself.

    Raises:
        Transient: `store_unavailable`.
    """
    target = deployable.target
    problem = check_target(store, keys, deployable)
    if problem is not None or target.version == 0:
        return problem
    version = signed_version(store, keys, target.model, target.version)
    if isinstance(version, Problem):
        return version
    required = version.attestations
    links = list(_links(Chain(store, target.model, target.version), keys))
    for step in required.steps:
        if step in _DONE:
            problem = _check_step(store, links, step, required, deployable)
            if problem is not None:
                return problem
    return None


def _links(chain: Chain, keys: Sequence[AttesterKey]) -> Iterator[Signed | Problem]:
    previous: str | None = None
    for number in chain.numbers():
        yield chain.read(keys, number, previous)
        previous = digest_of(chain.store.find(chain.key(number)) or b"")


def _check_step(
    store: Store,
    links: Sequence[Signed | Problem],
    step: RequiredStep,
    required: RequiredAttestations,
    deployable: Deployable,
) -> Problem | None:
    needed = required.approvals if step == "approve" else 1
    why = next((link for link in links if isinstance(link, Problem)), None)
    by: set[str] = set()
    for link in links:
        if not isinstance(link, Signed) or link.claim.step != step:
            continue
        refused = assess_allowed(link.key, step, required.attesters.get(step, ()))
        if refused is not None:
            why = refused
            continue
        by |= _attested_by(store, link, step, deployable)
    if len(by) >= needed:
        return None
    count = f" ({len(by)} of {needed} approvals)" if needed > 1 else ""
    reason = f"{deployable.target} takes no traffic: {_DONE[step]}{count}"
    if why is None:
        return Problem("attestation_missing", f"{reason}.")
    return Problem(why.code, f"{reason}; {why.reason}")


def _attested_by(store: Store, link: Signed, step: RequiredStep, deployable: Deployable) -> set[str]:
    """Return the attester or approver of a link, if it attests the step for the variant; else empty."""
    behind: set[str] = set()
    target, digest = deployable.target, deployable.manifest.digest
    for subject in link.statement.subject:
        data = _stored(store, subject.name, f"sha256:{subject.digest.get('sha256')}")
        if step in ("benchmark", "evaluate"):
            report = _parse(BenchmarkReport, data) if step == "benchmark" else _parse(EvaluationReport, data)
            if report is not None and report.target == target and report.verdict == "pass":
                behind.add(link.claim.attester)
        elif step == "rehearse":
            rehearsal = _parse(RehearsalRecord, data)
            proven = rehearsal is not None and rehearsal.completed.verdict == "pass"
            if rehearsal is not None and proven and (rehearsal.target, rehearsal.manifest_digest) == (target, digest):
                behind.add(link.claim.attester)
        else:
            approval = _parse(ApprovalRecord, data)
            if approval is not None and (approval.target, approval.manifest_digest) == (target, digest):
                behind.add(approval.approved_by)
    return behind


def _stored(store: Store, uri: str, digest: str) -> bytes:
    """Return an attested artifact from the store; empty if missing or altered."""
    try:
        data = store.find(store.key_of(uri)) or b""
    except Permanent:
        return b""
    return data if digest_of(data) == digest else b""


def _parse(kind: type[M], data: bytes) -> M | None:
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None
