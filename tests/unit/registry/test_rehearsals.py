"""Rollback is rehearsed before a release goes live: requested, staged, certified, or the release ends."""

from datetime import timedelta

import pytest

from contracts.facts import RehearsalRequested, StageReleased, StageRequested
from contracts.policy import Canary, Promotion
from contracts.vocabulary import digest_of, digest_of_json
from services.registry.domain.deadlines import awaited_step
from services.registry.domain.record import DeadlineReached
from services.registry.domain.rehearsals import assess_rehearsal
from tests.kit import fakes_registry as k
from tests.unit.registry.walks import Walk

OTHER = digest_of(b"something else")
BY_HAND = Promotion(mode="manual", approval_deadline_s=30 * 86_400)


def at_rehearsal(**policy):
    return Walk(k.careful_policy(**policy)).to_verdict()


def rehearsed(walk, verdict="pass", **changes):
    return k.rehearsed(verdict, of=walk.release.policy, **changes)


def certificates(walk, **changes):
    return tuple(k.certificate(trigger.name, of=walk.release.policy, **changes) for trigger in k.AUTOMATIC)


def test_it_is_asked_for_with_everything_that_a_certificate_must_name():
    walk = at_rehearsal(rehearsal_valid_s=900)
    asked = RehearsalRequested.model_validate(walk.last["rehearsal.requested"])
    assert (asked.candidate.target, asked.fallback) == (k.target("int8"), k.BASELINE)
    assert asked.triggers == k.AUTOMATIC
    assert asked.policy_digest == digest_of_json(walk.release.policy.model_dump(mode="json"))
    assert asked.valid_s == 900
    assert awaited_step(walk.release) == "rehearsal"
    assert "traffic.requested:1" in walk.handle(rehearsed(walk))


def test_its_pair_is_staged_once_the_measured_lease_is_given_back():
    walk = at_rehearsal()
    assert list(walk.last) == ["stage.released:int8", "rehearsal.requested", "stage.requested:int8:rehearsal"]
    asked = StageRequested.model_validate(walk.last["stage.requested:int8:rehearsal"])
    assert (asked.purpose, asked.candidate.target, asked.baseline) == ("rehearsal", k.target("int8"), k.BASELINE)
    assert (asked.load, asked.attempt) == (walk.release.policy.load, 1)
    assert StageReleased.model_validate(walk.last["stage.released:int8"]).purpose == "benchmark"


def test_only_the_chosen_variant_is_rehearsed():
    walk = Walk(k.careful_policy(), variants=("bf16", "int8")).to_staging()
    walk.handle(k.staged("bf16"), k.benchmarked("bf16", verdict="fail"), k.staged("int8"))
    emitted = walk.handle(k.benchmarked("int8"))
    assert [key for key in emitted if "rehearsal" in key] == ["rehearsal.requested", "stage.requested:int8:rehearsal"]


def test_its_pair_stays_loaded_until_the_end_if_traffic_comes_at_once():
    walk = at_rehearsal()
    assert list(walk.handle(rehearsed(walk))) == ["traffic.requested:1"]
    emitted = walk.handle(k.changed(k.route(k.target("int8"))))
    released = StageReleased.model_validate(emitted["stage.released:int8:rehearsal"])
    assert (released.candidate, released.purpose) == (k.target("int8"), "rehearsal")
    assert walk.end.outcome == "promoted"


def test_its_pair_is_given_back_while_a_person_is_awaited():
    walk = at_rehearsal(promotion=BY_HAND)
    assert list(walk.handle(rehearsed(walk))) == ["stage.released:int8:rehearsal", "approval.requested"]


@pytest.mark.parametrize("ender", [k.cancel(), k.abandoned(), k.rehearsed("fail")])
def test_its_pair_is_given_back_at_any_end(ender):
    emitted = at_rehearsal().handle(ender)
    assert list(emitted) == ["stage.released:int8:rehearsal", "release.finished"]


@pytest.mark.parametrize("required", [True, False])
def test_where_nothing_rolls_back_by_itself_nothing_is_asked(required):
    walk = Walk(k.policy(rehearsal="required" if required else "not_required")).to_verdict()
    assert "traffic.requested:1" in walk.last
    assert not any("rehearsal" in key for key in walk.last)
    assert assess_rehearsal(walk.release, walk.now)[0] == "pass"
    assert walk.handle(k.rehearsed("fail")) == {}, "it was not requested"


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_one_that_did_not_pass_rejects(verdict):
    walk = at_rehearsal()
    walk.handle(rehearsed(walk, verdict))
    assert (walk.end.outcome, walk.end.code, walk.end.reason) == ("rejected", "rehearsal_failed", "walked")


WRONG = {
    "none": (lambda _: (), "no certificate for the trigger errors. There is no certificate for the trigger slow"),
    "one too few": (lambda walk: certificates(walk)[:1], "no certificate for the trigger slow"),
    "of no trigger": (
        lambda walk: tuple(certificate.model_copy(update={"trigger": ""}) for certificate in certificates(walk)),
        "no certificate",
    ),
    "another candidate": (lambda walk: certificates(walk, candidate_digest=OTHER), "made for another candidate"),
    "another variant": (lambda walk: certificates(walk, variant="bf16"), "made for another candidate"),
    "another fallback": (lambda walk: certificates(walk, fallback_digest=OTHER), "made for another fallback"),
    "another policy": (lambda walk: certificates(walk, policy_digest=OTHER), "made for another policy"),
    "expired": (lambda walk: certificates(walk, expires_at=walk.now), "expired at 2026-11-24 12:"),
    "one of two wrong": (
        lambda walk: (certificates(walk)[0], certificates(walk, policy_digest=OTHER)[1]),
        "trigger slow was made for",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_pass_without_good_certificates_rejects_and_says_which(name):
    walk = at_rehearsal()
    bad, expected = WRONG[name]
    emitted = walk.handle(rehearsed(walk, certificates=bad(walk)))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "rehearsal_failed")
    assert expected in walk.end.reason
    assert not any(key.startswith("traffic.requested") for key in emitted)


def test_another_certificate_beside_a_good_one_does_no_harm():
    walk = at_rehearsal()
    both = (*certificates(walk, policy_digest=OTHER), *certificates(walk), k.certificate("of nothing"))
    assert "traffic.requested:1" in walk.handle(rehearsed(walk, certificates=both))


def test_a_certificate_that_expired_before_the_approval_rejects():
    walk = at_rehearsal(promotion=BY_HAND)
    walk.handle(rehearsed(walk))
    walk.now = k.EXPIRES
    emitted = walk.handle(k.approval(k.quantised("int8").manifest.digest))
    assert list(emitted) == ["release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", "rehearsal_failed")
    assert "expired at 2126-11-24 12:00:00 UTC" in walk.end.reason


def test_a_certificate_that_expires_during_the_canary_is_none_of_its_business():
    """Valid when traffic was ordered first is valid: the steps of a canary are one promotion."""
    walk = Walk(k.careful_policy(canary=Canary(steps=(0.1,)))).to_verdict(k.turn(first=False, epoch=1))
    assert "traffic.requested:0.1" in walk.handle(rehearsed(walk))
    walk.handle(k.changed(k.route(k.target("int8", 9), k.target("int8"), epoch=2), "canary"))
    walk.now = k.EXPIRES
    assert "traffic.requested:1" in walk.handle(k.assessed("int8", 0.1))
    walk.handle(k.changed(k.route(k.target("int8"), epoch=3)))
    assert walk.end.outcome == "promoted"


# -- a pair that cannot be staged ---------------------------------------------------------------------------------------


def test_a_pair_that_could_not_be_staged_fails_the_rehearsal():
    walk = at_rehearsal()
    emitted = walk.handle(k.unstaged("int8"))
    assert list(emitted) == ["stage.released:int8:rehearsal", "release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", "rehearsal_failed")
    assert walk.end.reason == "Candidate and fallback could not be staged (insufficient_memory: it broke)."


@pytest.mark.parametrize("late", [k.failed("int8", "stage"), k.failed("int8", "stage", purpose="benchmark")])
def test_a_late_failure_of_the_benchmark_s_own_staging_does_not(late):
    walk = at_rehearsal()
    assert walk.handle(late) == {}
    assert awaited_step(walk.release) == "rehearsal"
    assert "traffic.requested:1" in walk.handle(rehearsed(walk))


def test_a_failure_of_another_variant_or_after_the_rehearsal_changes_nothing():
    walk = Walk(k.careful_policy(promotion=BY_HAND), variants=("bf16", "int8")).to_staging()
    walk.handle(k.staged("bf16"), k.benchmarked("bf16", verdict="fail"), k.staged("int8"), k.benchmarked("int8"))
    assert walk.handle(k.unstaged("bf16")) == {}
    walk.handle(rehearsed(walk), k.unstaged("int8"))
    assert awaited_step(walk.release) == "approval"


def test_a_failure_that_comes_before_the_verdict_is_kept():
    walk = Walk(k.careful_policy()).to_staging()
    walk.handle(k.unstaged("int8"), k.staged("int8"))
    assert not walk.end
    walk.handle(k.benchmarked("int8"))
    assert walk.end.code == "rehearsal_failed"


def test_the_deadline_of_the_rehearsal_gives_its_pair_back():
    walk = at_rehearsal()
    walk.now += timedelta(seconds=walk.release.policy.deadlines.rehearsal_s)
    emitted = walk.handle(DeadlineReached(step="rehearsal"))
    assert list(emitted) == ["deadline.passed:rehearsal", "stage.released:int8:rehearsal", "release.finished"]
    assert walk.end.outcome == "expired"
