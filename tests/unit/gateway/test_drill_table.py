"""Knowing the drills: the newest counts, each ends by itself, what makes no sense is not taken."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.gateway.routing.tables import DrillTable
from testbed.factories import MODEL, target
from tests.kit.drills import NOW, drill
from tests.unit.gateway.fakes import StepClock

KEY = f"production.{MODEL}"


def known(table, environment="production", model=MODEL):
    known = table.get(environment, model)
    return known and known.drill


@given(st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=12))
async def test_the_drill_that_was_told_last_stays_whatever_its_revision(revisions):
    table = DrillTable(StepClock())
    for revision in revisions:
        await table.apply(KEY, drill(drill_id=str(revision)), revision)
    assert known(table).drill_id == str(revisions[-1])


async def test_environments_and_models_have_drills_of_their_own():
    table = DrillTable(StepClock())
    here = drill()
    staged = drill(environment="staging", drill_id="rehearsal")
    other = drill(target=target(1, model="other"), drill_id="other")
    for revision, entry in enumerate((here, staged, other), start=1):
        await table.apply(f"{entry.environment}.{entry.target.model}", entry, revision)
    assert (known(table), known(table, "staging"), known(table, model="other")) == (here, staged, other)
    assert known(table, "staging", "other") is None
    assert table.active() == [other, here, staged]


async def test_a_record_under_another_key_is_ignored_with_a_log():
    table = DrillTable(StepClock())
    with capture_logs() as logs:
        await table.apply(f"staging.{MODEL}", drill(), 1)
    assert table.active() == []
    assert known(table, "staging") is None
    assert [(entry["log_level"], entry["key"]) for entry in logs] == [("error", f"staging.{MODEL}")]


async def test_an_end_that_was_ordered_is_an_end():
    table = DrillTable(StepClock())
    await table.apply(KEY, drill(), 1)
    assert table.active()
    await table.apply(KEY, drill(share_ratio=0.0), 2)
    assert table.active() == []


class SetBack(StepClock):
    """Its wall clock stands still; only the monotonic one goes on."""

    def now(self):
        return NOW + timedelta(seconds=1)


async def test_told_again_it_keeps_its_end():
    clock = SetBack()
    table = DrillTable(clock)
    await table.apply(KEY, drill(lasts_s=60), 1)
    await clock.pause(58)
    await table.apply(KEY, drill(lasts_s=60), 1)  # as after a reconnect
    assert table.active()
    await clock.pause(2)
    assert table.active() == []
