"""The shadow of a release on its screens: what was compared, what it needs, and how it ended."""

import re
from datetime import datetime, timedelta

import pytest

from contracts import facts as f
from contracts.policy import Canary, Promotion, Shadow
from contracts.routes import ShadowShare
from services.console.domain.shadow_screen import shadow_of
from testbed import factories
from testbed.story import Story, release_id
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World, data

COUNTS = {"errors": f.ShadowCounts(pairs=f.PairCounts(only_target=11, only_other=1, neither=88), e_value=120.0)}


@pytest.fixture
def shown(tmp_path):
    """Return what shows a release whose shadow came to a verdict, and whether the release ended by it."""

    def show(verdict, *, ends=False):
        made, story = World(tmp_path), Story(NOW)
        events = [*story.release("m", 1, 1)]
        known, candidate = release_id(2), factories.served(2, "int8", "m")
        policy = factories.policy(
            shadow=Shadow(share_ratio=0.2),
            canary=Canary(steps=(0.1,)),
            promotion=Promotion(mode="automatic"),
            gates=(),
        )
        for event in story.release("m", 2, 2, until="canary"):
            if isinstance(event.data, f.TrafficRequested):
                break
            is_opening = isinstance(event.data, f.ReleaseOpened)
            changed = event.data.model_copy(update={"policy": policy}) if is_opening else event.data
            events.append(event.model_copy(update={"data": changed}))
        asked = factories.fact(
            f.TrafficRequested, release_id=known, target=candidate, weight_ratio=0.0, shadow_ratio=0.2
        )
        shadow = ShadowShare(served=candidate, share_ratio=0.2)
        about = {"active": factories.served(1, "int8", "m"), "canary": None, "quarantined": (), "epoch": 9}
        route = factories.route(model="m", shadow=shadow, **about)
        changed = factories.fact(
            f.DeploymentChanged, route=route, cause="shadow", at=story.moment + timedelta(seconds=10)
        )
        verdicts = [
            factories.fact(
                f.ShadowAssessed, target=candidate.target, share_ratio=0.2, requests=100 * number, counts=COUNTS,
                verdict=each, requests_needed=40 if each == "inconclusive" else 0, seconds_needed=0.0,
                reason=f"{100 * number} of 100 requests compared.",
            )
            for number, each in enumerate(("inconclusive", verdict), start=1)
        ]  # fmt: skip
        end = factories.fact(
            f.ReleaseFinished, release_id=known, model="m", version=2, outcome="aborted", reason="The shadow failed."
        )
        for fact in (asked, changed, *verdicts, *([end] if ends else [])):
            story.wait(5)
            events.append(story.event(fact, "m", known, cause="c"))
        made.fill(events)
        client = made.client("adam")
        return data(client.get(f"/releases/{known}"), "release"), client.get(f"/releases/{known}").text, client

    return show


def test_a_release_in_its_shadow_says_what_was_compared_and_what_it_needs(shown, snapshot):
    release, page, client = shown("inconclusive")
    assert release["state"] == "shadow"
    assert (release["shadow"]["requests"], release["shadow"]["requests_needed"]) == (200, 40)
    assert release["shadow"]["counts"]["errors"]["pairs"]["only_target"] == 11
    assert page_text(page) == snapshot
    assert not [entry for entry in release["history"] if entry["type"] == "shadow.assessed"]
    listed = data(client.get("/releases", params={"state": "shadow"}), "releases")["items"]
    assert [row["version"] for row in listed] == [2]


def test_model_and_fleet_name_the_candidate_its_share_its_progress_and_its_deadline(shown):
    _, _, client = shown("inconclusive")
    (row,) = data(client.get("/fleet", params={"state": "shadow"}), "fleet")["models"]["items"]
    shadow = row["shadow"]
    assert (shadow["target"], shadow["share"], shadow["release_id"]) == ("m.v2.int8", 0.2, release_id(2))
    assert (shadow["verdict"], shadow["requests"], shadow["requests_needed"]) == ("inconclusive", 200, 40)
    changes = data(client.get("/timeline", params={"model": "m"}), "changes")["items"]
    (began,) = [change for change in changes if change["cause"] == "shadow"]
    assert (began["shadow"], began["shadow_share"]) == ("m.v2.int8", 0.2)
    seconds = datetime.fromisoformat(shadow["deadline_at"]) - datetime.fromisoformat(began["at"])
    assert seconds.total_seconds() == Shadow().deadline_s
    assert data(client.get("/fleet"), "fleet")["totals"]["shadows"] == 1
    for path in ("/fleet", "/models/m"):
        page = " ".join(client.get(path).text.split())
        assert "200 of 240 compared" in page, path
        assert f'title="{shadow["deadline_at"]}">' in page, path
        assert re.search(r">\d+ (s|min|h|d) left<", page), path
        assert "20%" in page, path
    assert "unseen, 20%" in client.get("/timeline").text


def test_a_shadow_without_an_assessment_waits_for_the_requests_of_its_policy_until_the_deadline_of_its_release():
    policy = factories.policy(shadow=Shadow(min_requests=70, deadline_s=900.0, duration_s=60.0))
    story = Story(NOW)
    opened = story.event(factories.fact(f.ReleaseOpened, policy=policy), "m", "r")
    progress = factories.fact(f.ReleaseProgressed)
    progressed = story.event(progress, "m", "r")
    begun = shadow_of("m.v2.int8", 0.1, None, [opened, progressed])
    assert (begun.requests, begun.requests_needed, begun.verdict) == (0, 70, "waiting")
    assert begun.deadline_at == "2026-11-24T10:30:00.000Z"
    unknown = shadow_of("m.v2.int8", 0.1, None, [])
    assert (unknown.requests_needed, unknown.deadline_at) == (None, None)


def test_a_failed_shadow_is_a_failed_step_with_its_counts(shown):
    release, page, _ = shown("fail", ends=True)
    assert release["outcome"] == "aborted"
    assert {step["name"]: step["state"] for step in release["steps"]}["shadow"] == "failed"
    assert release["shadow"]["verdict"] == "fail"
    assert '<td class="figure">11</td>' in page
