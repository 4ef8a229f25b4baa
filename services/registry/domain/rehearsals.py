"""Checks the rehearsal certificates that a release needs before it takes traffic."""

from datetime import datetime

from contracts.facts import RegisteredVariant, RehearsalCertificate
from contracts.vocabulary import Digest, Variant, Verdict, digest_of_json
from decisions.releases.plan import needs_rehearsal
from services.registry.domain import gates
from services.registry.domain.record import Release, TurnGranted


def policy_digest(release: Release) -> Digest:
    """Return the digest of the frozen policy that certificates must name."""
    return digest_of_json(release.policy.model_dump(mode="json"))


def failure_key(variant: Variant) -> str:
    """Return the failure key of a variant whose rehearsal could not be staged."""
    return f"{variant}:rehearsal"


def assess_rehearsal(release: Release, now: datetime) -> tuple[Verdict, str] | None:
    """Return the verdict on the chosen variant's rehearsal, and the reason; None while pending.

    It passes if every automatic trigger has a certificate for this candidate, fallback and policy. Certificates must
    not have expired at the first traffic order; later orders do not check expiry.
    """
    chosen = gates.choose(release)
    if chosen is None or release.turn is None:
        return None
    if not needs_rehearsal(release.policy):
        return "pass", "No trigger rolls back automatically, so there is nothing to rehearse."
    unstaged = release.failed.get(failure_key(chosen.variant))
    if unstaged is not None:
        reason = f"{unstaged.code}: {unstaged.reason.rstrip('.')}"
        return "fail", f"Candidate and fallback could not be staged ({reason})."
    fact = release.rehearsed
    if fact is None:
        return None
    if fact.verdict != "pass":
        return fact.verdict, fact.reason
    problems = _problems(release, release.turn, chosen, now)
    return ("fail", " ".join(problems)) if problems else ("pass", fact.reason)


def _problems(release: Release, turn: TurnGranted, chosen: RegisteredVariant, now: datetime) -> list[str]:
    """Return a sentence for each trigger without a valid certificate."""
    expected = (
        ("another candidate", "candidate_digest", chosen.manifest.digest),
        ("another fallback", "fallback_digest", turn.baseline.manifest.digest),
        ("another policy", "policy_digest", policy_digest(release)),
    )
    ordered = any(key.startswith("traffic.requested:") for key in release.emitted)

    def problem(certificate: RehearsalCertificate) -> str | None:
        wrong = [what for what, name, digest in expected if getattr(certificate, name) != digest]
        if wrong:
            return f"was made for {' and '.join(wrong)}"
        expires_at = certificate.expires_at
        return f"expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC" if not ordered and now >= expires_at else None

    problems = []
    certificates = release.rehearsed.certificates if release.rehearsed is not None else ()
    for trigger in release.policy.rehearsed:
        about = [problem(certificate) for certificate in certificates if certificate.trigger == trigger.name]
        if not about:
            problems.append(f"There is no certificate for the trigger {trigger.name}.")
        elif None not in about:
            problems.append(f"The certificate for the trigger {trigger.name} {about[0]}.")
    return problems
