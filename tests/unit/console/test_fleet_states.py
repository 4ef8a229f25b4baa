"""The list of all models shows what is not well: a rejected release, a pause, a version that was rolled back."""

import pytest

from contracts import facts as f
from testbed import factories
from testbed.story import Story, release_id
from tests.unit.console.world import NOW, World, data


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def shown(world, *events):
    """Return the only model of a console with these events, and a signed-in browser."""
    world.fill(events)
    client = world.client("adam")
    (row,) = data(client.get("/fleet"), "fleet")["models"]["items"]
    return row, client


def test_a_model_whose_only_release_was_rejected_says_so(world):
    row, client = shown(world, *Story(NOW).release("m", 1, 1, until="rejected"))
    assert (row["release_id"], row["release_version"], row["release_state"]) == (release_id(1), 1, "rejected")
    assert 'class="badge bad">rejected' in client.get("/fleet").text


def test_a_release_that_serves_on_has_no_state_and_one_that_was_rolled_back_has(world):
    story = Story(NOW)
    serving = [*story.release("m", 1, 1), *story.release("m", 2, 2)]
    row, _ = shown(world, *serving)
    assert (row["release_id"], row["release_state"]) == (None, None)
    row, client = shown(world, *serving, *story.alert("m"))
    assert (row["release_version"], row["release_state"], row["quarantined"]) == (2, "rolled back", [])
    assert [held["target"] for held in row["suspended"]] == ["m.v2.int8"]
    assert client.get("/fleet").text.count('class="badge bad">suspended') == 1


def test_a_paused_release_is_shown_as_paused_until_it_goes_on(world):
    story, known = Story(NOW), release_id(1)

    def held(*, paused):
        story.wait(60)
        order = factories.fact(f.ReleaseHeld, release_id=known, paused=paused, reason="incident")
        return story.event(order, "m", known, by="oscar")

    running = [*story.release("m", 1, 1, until="merging"), held(paused=True)]
    row, client = shown(world, *running)
    assert row["release_state"] == "paused"
    release = data(client.get(f"/releases/{known}"), "release")
    assert (release["state"], "oscar" in release["paused"]) == ("merging", True)
    (listed,) = data(client.get("/releases?state=merging"), "releases")["items"]
    assert (listed["state"], listed["paused"]) == ("merging", True)
    assert listed["state_at"] == listed["opened_at"], "the pause begins no other state"
    row, client = shown(world, *running, held(paused=False))
    assert (row["release_state"], data(client.get(f"/releases/{known}"), "release")["paused"]) == ("merging", "")
