"""What `slipway status` shows of a pause, and the attempt of a retry."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from clients.cli.commands.releases import hold_line, next_attempt, source_of
from clients.cli.output import CommandError
from clients.cli.views.render import headline
from contracts import facts as f
from testbed.factories import PUBLISHER, event, fact
from tests.unit.cli.release_facts import RELEASE, finished, opened, ready, release_of, whole_release

OTHER = "sha256:" + "9" * 64
AT = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)


def release_with(*events):
    return release_of([*whole_release()[:-1], *events]).progress


def held(minute, *, paused):
    order = fact(f.ReleaseHeld, release_id=RELEASE, paused=paused, reason="incident")
    about = {"id": f"hold-{minute}", "source": "/slipway/oscar", "correlationid": RELEASE}
    return event(order, time=AT.replace(minute=minute), **about)


def test_a_pause_is_shown_with_who_ordered_it_and_why():
    progress = release_with(held(1, paused=True))
    assert headline(progress, AT).endswith("paused by oscar at 2026-11-24 10:01:00 UTC: incident")
    assert release_with(held(1, paused=True), held(2, paused=False)).paused == ""


def test_an_order_that_changes_nothing_says_since_when_and_by_whom():
    going_on, paused = release_with(), release_with(held(1, paused=True))
    assert hold_line(going_on, paused=True).startswith("paused support-bot v7 before its next step")
    assert "v7 was paused by oscar at 2026-11-24 10:01:00 UTC" in hold_line(paused, paused=True)
    assert hold_line(paused, paused=False).startswith("support-bot v7 goes on")
    assert hold_line(going_on, paused=False).startswith("support-bot v7 was not paused;")


def test_a_retry_is_one_attempt_after_all_of_the_same_weights():
    first = fact(f.CheckpointReady, attempt=1)
    other = first.model_copy(update={"training": first.training.model_copy(update={"run_id": "other"}), "attempt": 9})
    assert next_attempt(first, [first, first.model_copy(update={"attempt": 4}), other]) == 5


def announced(**changes):
    return ready().model_copy(update={"data": fact(f.CheckpointReady, **{"variants": ("int8",), **changes})})


def rejected_release(*checkpoints):
    return release_of([opened(publishers=(PUBLISHER,)), finished("rejected")]), checkpoints


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
    refused = replace(release_of([opened()]), opened=None)
    with pytest.raises(CommandError, match="several checkpoints"):
        source_of(refused, at_admission)
    assert source_of(refused, at_admission[:1]) == at_admission[0].data
