"""What `slipway status` shows of a pause, and the attempt of a retry."""

from datetime import UTC, datetime

from clients.cli.commands.releases import next_attempt
from clients.cli.views.render import headline
from contracts import facts as f
from contracts.vocabulary import ServingSettings
from testbed.factories import event, fact
from tests.unit.cli.release_facts import RELEASE, opened, release_of, whole_release

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


def test_a_retry_is_one_attempt_after_all_of_the_same_weights_and_run():
    first = opened().data
    other = first.model_copy(update={"training": first.training.model_copy(update={"run_id": "other"}), "attempt": 9})
    known = [first.model_copy(update={"attempt": 4}), first, other]
    assert next_attempt(first, known, None).attempt == 5
    assert next_attempt(first, [], None).attempt == first.attempt + 1


def test_a_retry_has_the_inputs_of_the_release_and_the_stored_policy_where_there_is_one():
    release = opened().data
    repeated = next_attempt(release, [release], None)
    same = [name for name in f.CheckpointReady.model_fields if name != "attempt"]
    assert [getattr(repeated, name) for name in same] == [getattr(release, name) for name in same]
    assert next_attempt(release, [release], release.policy).policy is None


def test_a_retry_on_another_runtime_keeps_every_other_serving_setting():
    declined = ServingSettings(tool_parser="none", context_tokens=384)
    release = opened().data.model_copy(update={"serving": declined})
    onto_next = next_attempt(release, [release], None, "next")
    assert onto_next.serving == declined.model_copy(update={"runtime": "next"})
    back = next_attempt(release.model_copy(update={"serving": onto_next.serving}), [release], None, "default")
    assert (back.serving, back.attempt) == (declined, release.attempt + 1)
    bare = release.model_copy(update={"serving": None})
    assert next_attempt(bare, [bare], None, "next").serving == ServingSettings(runtime="next")
