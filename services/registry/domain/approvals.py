"""Valid approvals of a release: one per identity, and no publisher's if the policy forbids it."""

from contracts.codes import Code
from contracts.vocabulary import Digest
from services.registry.domain.admission import Refusal
from services.registry.domain.record import Release

_CODE: Code = "approver_is_publisher"


def assess_approval(release: Release, sender: str) -> Refusal | None:
    """Refuse an approval whose sender may not approve this release."""
    if _counts(release, sender):
        return None
    reason = f"{sender} published the checkpoint of {release.id}, and its policy says approvals.not_by_publisher."
    return Refusal(_CODE, reason, {"publishers": list(release.opened.publishers)})


def approvers(release: Release, digest: Digest) -> tuple[str, ...]:
    """Return the distinct valid approvers of a digest, ordered by their first approval."""
    senders = (approval.sender for approval in release.approvals.get(digest, ()))
    return tuple(dict.fromkeys(sender for sender in senders if _counts(release, sender)))


def is_approved(release: Release, digest: Digest) -> bool:
    """Return whether a digest has as many approvals as the policy requires."""
    return len(approvers(release, digest)) >= release.policy.approvals.count


def _counts(release: Release, sender: str) -> bool:
    return not (release.policy.approvals.not_by_publisher and sender in release.opened.publishers)
