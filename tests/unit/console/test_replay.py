"""A replay in the console: that of `slipway replay`, for a policy edited in place; hostile and broken policies."""

from datetime import timedelta

import pytest

from decisions.replay.engine import replay
from services.console.domain.packing import pack, unpack
from services.console.domain.replay_screen import InvalidPolicyError, parse_triggers, result_of
from tests.unit.console.replays import PATH, STRICT, ask
from tests.unit.console.world import NOW

LOOSE = "triggers:\n- {name: slow, metric: ttft_ms, threshold: 60000, min_requests: 20}\n"


def test_a_stricter_policy_would_have_rolled_back_and_a_loose_one_not(world, admin):
    strict, loose = ask(world, admin, STRICT).json(), ask(world, admin, LOOSE).json()
    assert strict["windows"] == loose["windows"] > 0
    assert strict["raised"]["slow"] >= 1
    assert strict["alerts"][0]["requests"] > 0
    assert (loose["raised"], loose["rollbacks"], loose["alerts"]) == ({"slow": 0}, {"slow": 0}, [])


def test_it_is_the_replay_of_the_command_line(world, admin):
    triggers = parse_triggers(STRICT)
    about = [event for event in world.recorded.events if event.subject == "faq-de"]
    since = NOW - timedelta(hours=48)
    expected = result_of("faq-de", replay(triggers, about, since=since), triggers, since)
    assert ask(world, admin, STRICT, hours=48).json() == expected.model_dump(mode="json")


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("[", "no YAML"),
        ("triggers: []", "at least one"),
        ("just text", "at least one"),
        ("triggers:\n- {name: x, metric: none, threshold: 1}", "triggers.0.metric"),
        ("triggers:\n- {name: x, metric: ttft_ms, threshold: 1}\n- {name: x, metric: ttft_ms, threshold: 2}", "same name"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
        ("a: &a [x]\nb: &b [*a, *a]\ntriggers: " + str([1] * 60), "the limit is 50"),
        ("[" * 5000, "no YAML"),
    ],
)  # fmt: skip
def test_a_policy_that_is_none_is_refused_with_the_place(world, admin, policy, why):
    with pytest.raises(InvalidPolicyError, match=why):
        parse_triggers(policy)
    assert ask(world, admin, policy).status_code == 422


def test_the_page_has_the_triggers_of_the_newest_release_and_keeps_what_was_edited(world, admin):
    assert "slow-first-token" in admin.get("/models/faq-de/replay").text
    form = {"policy": STRICT, "hours": "24", "csrf": world.csrf(admin)}
    page = admin.post("/models/faq-de/replay", data=form)
    assert page.status_code == 200
    assert "What would have happened" in page.text
    assert "threshold: 100" in page.text
    assert ">Bad in<br>its window</th>" in page.text
    recorded = page.text.partition("<h2>Recorded</h2>")[2]
    assert [recorded.count(f">{head}</th>") for head in ("At (UTC)", "Target", "Trigger", "State")] == [1] * 4
    hostile = admin.post("/models/faq-de/replay", data=form | {"policy": "</textarea><script>alert(1)</script>"})
    assert hostile.status_code == 422
    assert "<script>alert" not in hostile.text


def test_it_needs_the_token_and_a_model_that_the_person_sees(world, admin):
    assert admin.post(PATH, json={"policy": STRICT}).status_code == 403
    assert admin.post("/models/faq-de/replay", data={"policy": STRICT}).status_code == 403
    member = world.client("sam")
    assert ask(world, member, STRICT).status_code == 404
    assert member.get("/models/faq-de/replay").status_code == 404
    assert ask(world, admin, STRICT, hours=49).status_code == 422


def test_bodies_of_the_index_are_compressed_and_whole():
    text = '{"a": "äöü"}' * 500
    assert unpack(pack(text)) == text
    assert len(pack(text)) < len(text) / 20
