"""What a rehearsal must have proved before a release may take traffic."""

from datetime import datetime

from contracts.codes import Code
from contracts.facts import RegisteredVariant, RehearsalCertificate
from contracts.policy import ReleasePolicy
from contracts.vocabulary import Digest, Variant, Verdict, digest_of_json
from services.registry.domain import gates
from services.registry.domain.record import Release, SlotGranted


def is_needed(policy: ReleasePolicy) -> bool:
    """Return whether the way back is rehearsed at all.

    Where no trigger leads back by itself there is nothing to rehearse: that counts as passed, and nobody is asked.
    """
    return policy.rehearsal == "required" and bool(policy.automatic)


def policy_digest(release: Release) -> Digest:
    """Return the digest of the frozen policy, as its certificates must name it."""
    return digest_of_json(release.policy.model_dump(mode="json"))


def failure_key(variant: Variant) -> str:
    """Name the slot of a pair that could not be staged for the rehearsal."""
    return f"{variant}:rehearsal"


def assess_rehearsal(release: Release, now: datetime) -> tuple[Verdict, str] | None:
    """Return the verdict on the way back of the chosen variant, and why; None while it is awaited.

    It passes only if every trigger that leads back by itself has a certificate for this very candidate, fallback and
    policy. Certificates must be valid when traffic is ordered first; the steps after that are one promotion.
    """
    chosen = gates.choose(release)
    if chosen is None or release.slot is None:
        return None
    if not is_needed(release.policy):
        return "pass", "Nothing leads back by itself, so there is nothing to rehearse."
    unstaged = release.failed.get(failure_key(chosen.variant))
    if unstaged is not None:
        return "fail", f"Candidate and fallback could not be staged ({_said(unstaged.code, unstaged.reason)})."
    fact = release.rehearsed
    if fact is None:
        return None
    if fact.verdict != "pass":
        return fact.verdict, fact.reason
    problems = _problems(release, release.slot, chosen, now)
    return ("fail", " ".join(problems)) if problems else ("pass", fact.reason)


def _said(code: Code, reason: str) -> str:
    return f"{code}: {reason.rstrip('.')}"


def _problems(release: Release, slot: SlotGranted, chosen: RegisteredVariant, now: datetime) -> list[str]:
    """Return what is wrong with the certificates, a sentence for each trigger that has no good one."""
    wanted = (
        ("another candidate", "candidate_digest", chosen.manifest.digest),
        ("another fallback", "fallback_digest", slot.baseline.manifest.digest),
        ("another policy", "policy_digest", policy_digest(release)),
    )
    ordered = any(key.startswith("traffic.requested:") for key in release.emitted)

    def problem(one: RehearsalCertificate) -> str | None:
        wrong = [what for what, name, digest in wanted if getattr(one, name) != digest]
        if wrong:
            return f"was made for {' and '.join(wrong)}"
        return f"expired at {one.expires_at:%Y-%m-%d %H:%M:%S} UTC" if not ordered and now >= one.expires_at else None

    found = []
    certificates = release.rehearsed.certificates if release.rehearsed is not None else ()
    for trigger in release.policy.automatic:
        about = [problem(one) for one in certificates if one.trigger == trigger.name]
        if not about:
            found.append(f"There is no certificate for the trigger {trigger.name}.")
        elif None not in about:
            found.append(f"The certificate for the trigger {trigger.name} {about[0]}.")
    return found
