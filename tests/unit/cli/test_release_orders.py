"""What `slipway status` shows of a pause, and the attempt of a retry."""

from datetime import UTC, datetime

import pytest

from clients.cli.commands.releases import hold_line, next_attempt, source_of
from clients.cli.output import CommandError
from clients.cli.views.render import as_data, headline
from contracts import facts as f
from decisions.release_projection import join, project
from testbed.factories import PUBLISHER, event, fact
from tests.unit.cli.release_facts import RELEASE, finished, opened, ready, whole_release

OTHER = "sha256:" + "9" * 64
AT = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)


def answered(order_id, details, order_type=f.ReleaseHeld.TYPE):
    accepted = fact(f.OrderAccepted, order_id=order_id, order_type=order_type, release_id=RELEASE, details=details)
    return event(f.OrderAccepted).model_copy(update={"data": accepted, "correlationid": RELEASE})


def held(order_id, minute, *, paused):
    at = AT.replace(minute=minute).isoformat()
    return answered(order_id, {"paused": paused, "by": "oscar", "at": at, "reason": "incident"})


def release_with(*events):
    underway = [each for each in whole_release() if not isinstance(each.data, f.ReleaseFinished)]
    (release,) = join(project([*underway, *events])).values()
    return release


def test_a_pause_is_shown_with_who_ordered_it_and_why():
    release = release_with(held("a", 1, paused=True))
    assert release.is_paused
    assert headline(release, AT).endswith("paused by oscar at 10:01:00 UTC: incident")
    assert as_data(release)["paused"] is True


def test_of_several_orders_the_newest_counts_in_any_order_of_the_log():
    pause, resume = held("a", 1, paused=True), held("b", 2, paused=False)
    assert not release_with(pause, resume).is_paused
    assert not release_with(resume, pause).is_paused


def test_an_order_that_changes_nothing_says_since_when_and_by_whom():
    going_on, paused = release_with(), release_with(held("a", 1, paused=True))
    assert hold_line(going_on, paused=True).startswith("paused support-bot v7 before its next step")
    assert "v7 was paused already, by oscar since 2026-11-24 10:01:00 UTC" in hold_line(paused, paused=True)
    assert hold_line(paused, paused=False).startswith("support-bot v7 goes on")
    assert hold_line(going_on, paused=False).startswith("support-bot v7 was not paused;")


@pytest.mark.parametrize("details", [{}, {"paused": True, "at": "noon"}, {"paused": "yes", "at": AT.isoformat()}])
def test_answers_of_another_form_change_nothing(details):
    assert release_with(answered("a", details)).hold is None
    assert (
        release_with(answered("a", {"paused": True, "at": AT.isoformat()}, "slipway.approval.granted.v1")).hold is None
    )


def test_a_release_that_ended_is_not_paused():
    (release,) = join(project([*whole_release(), held("a", 1, paused=True)])).values()
    assert not release.is_paused


def test_a_retry_is_one_attempt_after_all_of_the_same_weights():
    first = fact(f.CheckpointReady, attempt=1)
    other = first.model_copy(update={"training": first.training.model_copy(update={"run_id": "other"}), "attempt": 9})
    assert next_attempt(first, [first, first.model_copy(update={"attempt": 4}), other]) == 5


def announced(**changes):
    return ready().model_copy(update={"data": fact(f.CheckpointReady, **{"variants": ("int8",), **changes})})


def rejected_release(*checkpoints):
    history = [*checkpoints, opened(publishers=(PUBLISHER,)), finished("rejected")]
    (release,) = [each for each in join(project(history)).values() if each.outcome is not None]
    return release, history


@pytest.mark.parametrize(
    "changes", [{"attempt": 3}, {"base": fact(f.CheckpointReady).base.model_copy(update={"digest": OTHER})}]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_retry_publishes_what_was_released_and_not_what_has_the_same_id(changes, before):
    """Who may publish chooses the ids of events: another checkpoint may have that of the release's own."""
    own, other = ready(), announced(**changes)
    release, history = rejected_release(*((other, own) if before else (own, other)))
    assert source_of(release, history) == own.data
    assert source_of(release, [*history, own]) == own.data, "delivered twice"


def test_a_retry_is_refused_where_the_log_does_not_tell_which_checkpoint_it_was():
    own, other = ready(), announced(evaluation=None)
    with pytest.raises(CommandError, match="several checkpoints with the id ready-1"):
        source_of(*rejected_release(own, other))
    foreign = ready(source="/slipway/mallory")
    with pytest.raises(CommandError, match="no more; publish it"):
        source_of(*rejected_release(foreign))
    at_admission = [ready(), announced(attempt=7)]
    refused = event(fact(f.CheckpointRejected), source="/slipway/registry", causationid="ready-1")
    (release,) = join(project([*at_admission, refused])).values()
    assert release.outcome == "rejected"
    with pytest.raises(CommandError, match="several checkpoints"):
        source_of(release, at_admission)
    assert source_of(release, at_admission[:1]) == at_admission[0].data
