"""Who may approve, and when a release is approved: different people, each once, no publisher where that is forbidden."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.policy import Approvals, Promotion
from services.registry.domain.approvals import approvers, assess_approval, is_approved
from services.registry.domain.record import Input, Release
from services.registry.domain.releases import decide
from tests.kit import fakes_registry as k

DIGEST, OTHER = k.quantised("int8").manifest.digest, k.ref("other").digest
PEOPLE = st.sampled_from(["paula", "anna", "oscar", "ben", ""])


def release_with(count=1, *, not_by_publisher=False, publishers=("paula",)) -> Release:
    approvals = Approvals(count=count, not_by_publisher=not_by_publisher)
    opened = k.opened(policy=k.policy(promotion=Promotion(mode="manual"), approvals=approvals))
    return Release(opened=opened.model_copy(update={"publishers": publishers}), opened_at=k.START)


def approve(release, *given_by):
    for number, (sender, digest) in enumerate(given_by):
        received = Input(f"a{number}-{len(release.applied)}", k.START, k.approval(digest), sender=sender)
        release = decide(release, received, k.START).release
    return release


@given(
    count=st.integers(1, 4),
    forbidden=st.booleans(),
    publishers=st.lists(PEOPLE, max_size=2),
    given_by=st.lists(st.tuples(PEOPLE, st.sampled_from([DIGEST, OTHER])), max_size=9),
)
def test_a_release_is_approved_by_as_many_different_people_as_its_policy_says(count, forbidden, publishers, given_by):
    release = release_with(count, not_by_publisher=forbidden, publishers=tuple(publishers))
    release = approve(release, *given_by)
    people = {sender for sender, digest in given_by if digest == DIGEST}
    people -= set(publishers) if forbidden else set()
    assert set(approvers(release, DIGEST)) == people
    assert len(approvers(release, DIGEST)) == len(people)
    assert is_approved(release, DIGEST) == (len(people) >= count)
    again = approve(release, *reversed(given_by))
    assert approvers(again, DIGEST) == approvers(release, DIGEST), "who approves again has approved once"


def test_an_approval_by_the_publisher_is_refused_where_it_never_counts():
    refusal = assess_approval(release_with(not_by_publisher=True), "paula")
    assert refusal is not None
    assert (refusal.code, refusal.details) == ("approver_is_publisher", {"publishers": ["paula"]})
    assert "paula published the checkpoint" in refusal.reason
    assert assess_approval(release_with(not_by_publisher=True), "anna") is None
    assert assess_approval(release_with(), "paula") is None


def test_approvals_that_no_one_is_asked_for_are_no_policy():
    with pytest.raises(ValidationError, match="which asks for no approval"):
        k.policy(approvals=Approvals(count=2))
