"""The console and `slipway status` count the times of a release from the same moment: its announcement."""

from datetime import timedelta

from contracts import facts as f
from decisions.release_projection import join, latest, project
from testbed import factories
from testbed.story import Story, release_id
from tests.unit.console.world import NOW, World


def test_times_of_a_release_are_those_of_slipway_status(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    queued = timedelta(minutes=7)
    events = list(story.release("m", 1, 1))
    opened = next(event for event in events if isinstance(event.data, f.ReleaseOpened))
    ready = story.event(factories.fact(f.CheckpointReady, model="m"), "m", "run-1")
    ready = ready.model_copy(update={"id": opened.data.source_event_id, "time": opened.time - queued})
    events = [ready, *events]
    made.fill(events)
    shown = made.client("adam").get(f"/api/v1/releases/{release_id(1)}").json()
    progress = latest(join(project(events)), "m")
    done = [step for step in progress.listed() if step.at is not None]
    expected = {step.name: round((step.at - progress.began_at).total_seconds(), 3) for step in done}
    assert {step["name"]: step["elapsed_s"] for step in shown["steps"] if step["at"]} == expected
    assert max(expected.values()) > queued.total_seconds()
    assert shown["opened_at"][:19] == opened.time.isoformat()[:19]
    made.close()
