import json

import pytest
import typer

from clients.cli.commands.orders import order
from clients.cli.commands.rollback import (
    answer_in,
    is_behind,
    rollback,
    show_end,
    show_plan,
    was_rolled_back_recently,
)
from clients.cli.commands.suspension import pick_suspended
from clients.cli.output import CommandError, Exit
from clients.cli.releases.serving import active_target
from contracts import facts as f
from contracts.routes import CanaryShare, ShadowShare, Suspended
from decisions.rollback.orders import assess_epoch
from decisions.routes.rollback_plan import plan_rollback
from testbed.factories import after, fact, route, served, target


def test_a_plan_has_the_effect_of_an_order():
    plan = plan_rollback(route(), target(7), None)
    assert plan == {
        "model": "support-bot",
        "failed": "support-bot.v7.int8",
        "epoch": 12,
        "refused": None,
        "cause": "rollback",
        "active_before": "support-bot.v7.int8",
        "active_after": "support-bot.v6.int8",
        "epoch_after": 13,
        "aborts_canary": "support-bot.v8.int8",
        "ends_shadow": None,
        "previous_after": "support-bot.v5.int8",
        "quarantined_after": ["support-bot.v4.int8", "support-bot.v7.int8"],
    }


def test_a_plan_for_a_canary_leaves_the_active_target():
    plan = plan_rollback(route(), target(8), None)
    assert (plan["cause"], plan["active_after"], plan["aborts_canary"]) == (
        "abort",
        "support-bot.v7.int8",
        "support-bot.v8.int8",
    )


def test_a_plan_names_the_shadow_that_ends_with_the_active_version():
    asked = ShadowShare(served=served(8), share_ratio=0.1)
    assert plan_rollback(route(canary=None, shadow=asked), target(7), None)["ends_shadow"] == "support-bot.v8.int8"
    assert plan_rollback(route(canary=None), target(7), None)["ends_shadow"] is None


def test_a_plan_can_name_an_earlier_version():
    plan = plan_rollback(route(canary=None), target(7), 5)
    assert (plan["active_after"], plan["previous_after"]) == ("support-bot.v5.int8", "support-bot.v6.int8")
    assert plan["aborts_canary"] is None


@pytest.mark.parametrize(
    ("changes", "failed", "to", "code"),
    [
        ({}, target(6), None, "not_in_traffic"),
        ({}, target(7), 3, "no_previous_target"),
        ({"previous": None, "history": ()}, target(7), None, "no_previous_target"),
        ({"canary": CanaryShare(served=served(8), weight_ratio=0.0)}, target(8), None, "not_in_traffic"),
    ],
)
def test_a_plan_has_the_reason_of_a_refusal(changes, failed, to, code, capsys):
    plan = plan_rollback(route(**changes), failed, to)
    assert plan["refused"]["code"] == code
    for as_json in (False, True):
        with pytest.raises(typer.Exit) as ended:
            show_plan(plan, as_json=as_json)
        assert ended.value.exit_code == Exit.FAILED
        assert code in capsys.readouterr().out


def test_the_active_target_comes_first_and_an_aborted_canary_serves_nothing():
    assert route().in_traffic == (served(7), served(8))
    assert route(canary=CanaryShare(served=served(8), weight_ratio=0.0)).in_traffic == (served(7),)
    assert active_target(route(), "support-bot") == target(7)


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_a_model_without_an_active_target_is_refused(environment):
    for none in (None, route(active=None)):
        with pytest.raises(CommandError, match="no target serves support-bot"):
            active_target(none, "support-bot", environment)


def test_an_order_that_was_refused_ends_the_command_with_the_answer_and_not_with_a_timeout():
    refused = fact(f.OrderRefused, order_id="mine", code="team_mismatch", reason="faq-bot belongs to team bank.")
    with pytest.raises(CommandError, match="team_mismatch: faq-bot belongs to team bank") as ended:
        answer_in(refused, "mine")
    assert ended.value.name == "team_mismatch"
    assert answer_in(refused, "another") is None
    failed = fact(f.RollbackFailed, cause_id="mine")
    assert (answer_in(failed, "mine"), answer_in(failed, "another")) == (failed, None)


@pytest.mark.parametrize(
    ("cause", "ago", "recently"),
    [
        ("rollback", 0, True),
        ("rollback", 119, True),
        ("rollback", 120, False),
        ("promote", 1, False),
        ("abort", 1, False),
    ],
)
def test_an_order_soon_after_a_rollback_must_name_its_target(cause, ago, recently):
    moved = fact(f.DeploymentChanged, cause=cause, at=after(0))
    assert was_rolled_back_recently(moved, moved.route, after(ago)) == recently


@pytest.mark.parametrize(("active", "epoch", "recently"), [(8, 14, False), (6, 14, True), (8, 13, True)])
def test_a_rollback_that_is_published_late_counts_while_its_target_is_active(active, epoch, recently):
    moved = fact(f.DeploymentChanged, cause="rollback", at=after(0), route=route(active=served(6), epoch=13))
    now = route(active=served(active), epoch=epoch)
    assert was_rolled_back_recently(moved, now, after(1)) == recently


# -- how it ended -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["pass", "inconclusive"])
def test_a_completed_rollback_ends_with_0(verdict, capsys, snapshot):
    show_end(fact(f.RollbackCompleted, verdict=verdict), as_json=False)
    assert capsys.readouterr().out == snapshot
    show_end(fact(f.RollbackCompleted, verdict=verdict), as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert (data["state"], data["verdict"], data["steps"][1]["seconds"]) == ("completed", verdict, 10.5)


def test_a_switch_to_a_failing_target_ends_with_1():
    with pytest.raises(CommandError, match="that target fails as well") as refused:
        show_end(fact(f.RollbackCompleted, verdict="fail", reason="Only 1 of 5."), as_json=False)
    assert refused.value.code is Exit.FAILED


def test_a_failed_rollback_ends_with_1_and_what_to_do(capsys):
    with pytest.raises(
        CommandError, match=r"not rolled back: previous_not_ready\. The previous target must"
    ) as refused:
        show_end(fact(f.RollbackFailed, code="previous_not_ready"), as_json=True)
    assert refused.value.code is Exit.FAILED
    assert json.loads(capsys.readouterr().out)["state"] == "failed"


def test_an_order_without_a_release_is_its_own_correlation():
    published = order("oscar", "support-bot", None, fact(f.RollbackOrdered))
    assert (published.correlationid, published.nats_subject) == (
        published.id,
        "slipway.rollback.ordered.v1.support-bot.oscar",
    )
    assert order("oscar", "support-bot", "r-1", fact(f.RollbackOrdered)).correlationid == "r-1"


@pytest.mark.parametrize(("bucket", "known", "expected"), [(None, 12, True), (11, 12, True), (13, 12, False)])
def test_a_bucket_of_routes_that_was_lost_or_restored_is_not_mistaken_for_a_route_that_changed(bucket, known, expected):
    there = None if bucket is None else route(epoch=bucket)
    assert is_behind(there, assess_epoch(bucket or 0, known, "support-bot")) is expected


def test_a_refusal_without_an_epoch_does_not_show_a_lost_bucket():
    assert not is_behind(None, "The order was given for another time.")


@pytest.mark.parametrize("options", [{"dry_run": True}, {"to": "v5"}, {"wait": False}])
def test_a_decision_is_refused_with_an_option_that_it_would_not_follow(options):
    with pytest.raises(CommandError, match="does not go with --to, --dry-run or --no-wait"):
        rollback(model="return", decided="support-bot", reason="it was the load", **options)


def test_a_decision_is_about_the_last_suspended_version_or_the_named_one():
    left = tuple(Suspended(served=served(version), cause="errors", since=after(0)) for version in (6, 7))
    both = route(active=served(5), previous=None, canary=None, suspended=left)
    assert pick_suspended(both, "support-bot") == target(6)
    assert pick_suspended(both, "support-bot", target(7)) == target(7)
    with pytest.raises(CommandError, match="is not suspended"):
        pick_suspended(both, "support-bot", target(5))
    canary = CanaryShare(served=served(6), weight_ratio=0.1, returns=left[0])
    returning = both.model_copy(update={"canary": canary, "suspended": left[1:]})
    assert pick_suspended(returning, "support-bot", at_once=True) == target(6)
    assert pick_suspended(returning, "support-bot") == target(7)
