"""A version: its lineage back to the hash of the training data, its proofs, and what differs from another one."""

import pytest

from contracts import facts as f
from contracts.vocabulary import ServingSettings
from services.console.domain.version_screen import Proof, Proofs, build_version, compare_versions, flatten
from services.console.web.markdown import render_markdown
from testbed import factories
from tests.kit.page_text import page_text
from tests.unit.console.world import data

PATH = "/models/support-bot/versions/2"
EVIL = "<script>alert(1)</script>"


def test_the_lineage_goes_back_to_the_data_and_names_a_digest_at_each_step(admin):
    shown = data(admin.get(PATH), "shown")
    kinds = [[artifact["kind"] for artifact in column] for column in shown["lineage"]]
    assert kinds == [["data", "base"], ["checkpoint"], ["merged"], ["variant"] * 3, ["version"]]
    release = data(admin.get(f"/releases/{shown['release_id']}"), "release")
    assert shown["lineage"][0][0]["digest"] == release["data_hash"]
    assert shown["lineage"][1][0]["digest"] == release["weights_digest"]
    assert all(artifact["digest"].startswith("sha256:") for column in shown["lineage"] for artifact in column)


def test_it_says_when_the_version_served(admin):
    shown = data(admin.get(PATH), "shown")
    assert [(row["cause"], row["canary"] or row["active"]) for row in shown["deployments"]] == [
        ("promote", "support-bot.v2.int8"), ("canary", "support-bot.v2.int8"), ("canary", "support-bot.v2.int8"),
    ]  # fmt: skip
    assert data(admin.get("/models/mail-sorter/versions/3"), "shown")["deployments"] == []


def test_a_release_in_progress_has_the_lineage_so_far(admin):
    shown = data(admin.get("/models/mail-sorter/versions/3"), "shown")
    assert [artifact["kind"] for column in shown["lineage"] for artifact in column] == ["data", "base", "checkpoint"]
    assert (shown["registered_at"], shown["manifest_digest"]) == (None, None)


def test_two_versions_side_by_side(admin):
    compared = data(admin.get("/models/support-bot/compare?left=2&right=1"), "compared")
    rows = {(row["group"], row["name"]): row for row in compared["rows"]}
    assert (compared["left"], compared["right"]) == (2, 1)
    assert rows["lineage", "data"]["differs"]
    assert not rows["lineage", "base"]["differs"]
    assert (rows["hyperparameters", "steps"]["left"], rows["hyperparameters", "steps"]["right"]) == ("40", "30")
    assert rows["hyperparameters", "steps"]["change"] == ""
    assert rows["variants", "int8 perplexity ratio"]["left"] == "1.0120"
    assert {row["differs"] for (_, name), row in rows.items() if name.startswith("triggers.")} == {False}
    assert admin.get(f"{PATH}/compare/77").status_code == 404
    assert admin.get("/models/support-bot/compare?left=1&right=2").status_code == 200


def test_figures_that_differ_say_which_version_is_better():
    opened = factories.fact(f.ReleaseOpened)
    result = opened.evals[0].model_copy(update={"value": 0.5, "higher_is_better": False})
    slower = opened.model_copy(update={"evals": (result.model_copy(update={"value": 0.75}),)})
    opened = opened.model_copy(update={"evals": (result,)})
    left, right = (build_version((factories.event(fact),), None, (), None) for fact in (opened, slower))
    (row,) = [row for row in compare_versions(left, right).rows if row.group == "evaluations"]
    assert (row.change, row.tone) == ("+0.25", "bad")
    (row,) = [row for row in compare_versions(right, left).rows if row.group == "evaluations"]
    assert (row.change, row.tone) == ("-0.25", "good")
    groups = [row.group for row in compare_versions(left, right).rows]
    assert (groups[0], groups[-1]) == ("evaluations", "lineage")


def test_what_is_not_there_and_what_is_of_another_team_is_not_found(world, admin):
    member = world.client("sam")
    for path in (PATH, f"{PATH}/proofs", "/models/support-bot/compare?left=1&right=2"):
        assert member.get(path).status_code == 404, path
    assert admin.get("/models/support-bot/versions/99").status_code == 404
    assert admin.get("/models/support-bot/versions/-1").status_code == 422


def test_proofs_are_shown_as_text_and_a_store_that_does_not_answer_is_said(world, admin, snapshot):
    page = admin.get("/models/support-bot/versions/2/proofs")
    assert (page.status_code, "The store does not answer" in page.text) == (200, True)
    proof = Proof(what=f"variant {EVIL}", verdict="failed", detail=EVIL)
    card = f"---\nname: x\n---\n\n# Card {EVIL}\n\n[a](javascript:alert(1)) ![b](https://evil.example/x.png)\n"
    world.artifacts.proofs["support-bot", 2] = Proofs(proofs=(proof,), verified=False, card=card)
    page = admin.get("/models/support-bot/versions/2/proofs").text
    assert page_text(page) == snapshot
    for hostile in ("<script>alert", 'href="javascript', "<img"):
        assert hostile not in page


def test_metadata_before_a_card_is_not_rendered():
    assert render_markdown("---\nbase_model: a\n---\n\n# T\n") == "<h1>T</h1>\n"
    assert render_markdown("| a |\n|---|\n| 1 |\n").startswith("<table>")


@pytest.mark.parametrize("of_release", [True, False])
def test_the_serving_settings_are_those_of_the_release_else_of_the_registered_version(of_release):
    own, registered = ServingSettings(runtime="next"), ServingSettings(runtime="other")
    opened = factories.fact(f.ReleaseOpened, serving=own if of_release else None)
    events = tuple(factories.event(data) for data in (opened, factories.fact(f.VersionRegistered, serving=registered)))
    screen = build_version(events, None, (), None)
    assert screen.serving == {"runtime": "next" if of_release else "other"}
    assert build_version(events[:1], None, (), None).serving == ({"runtime": "next"} if of_release else {})


def test_nested_settings_have_one_name_each():
    assert flatten({"lora": {"r": 8, "on": {"q": True}}, "lr": 0.1}) == {"lora.r": 8, "lora.on.q": True, "lr": 0.1}
    listed = {"triggers": [{"name": "slow", "action": "manual"}], "gates": [{"metric": "ttft_ms"}], "steps": [0.1]}
    assert flatten(listed) == {
        "triggers.slow.name": "slow",
        "triggers.slow.action": "manual",
        "gates.ttft_ms.metric": "ttft_ms",
        "steps": [0.1],
    }
