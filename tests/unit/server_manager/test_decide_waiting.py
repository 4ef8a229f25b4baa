"""Staging beside targets that are never unloaded: only what can never fit fails, the rest waits for its memory."""

from dataclasses import replace

from contracts.vocabulary import Target
from services.server_manager.domain import staging
from services.server_manager.domain.answer_types import FailLease, GrantLease, ReturnLease
from services.server_manager.domain.decide import decide_answers
from services.server_manager.domain.reconcile import Phase
from services.server_manager.domain.records import Servers
from tests.unit.server_manager.factories import LIMITS, at, held, route, stage_requested

KEPT = {f"cat.v{version}.bf16": held(version, model="cat") for version in (6, 7)}
"""400 bytes of a model whose route is not known; `bot` needs 400 for production and 400 for two new targets."""
ROUTES = {"bot": route(1, 0)}


def waiting(*events, **fields):
    record = Servers(**fields)
    for event in events:
        record = staging.enqueue_staging(record, event)
    return record


def decide(record, held_targets, *, routes=ROUTES, unreadable=(), seconds=0.0):
    return decide_answers(record, routes, held_targets, LIMITS, at(seconds), waited_s={}, unreadable=unreadable)


def test_what_does_not_fit_only_beside_targets_that_stay_waits_and_is_granted_when_they_are_gone():
    record = waiting(stage_requested("s1", 3, 2))
    assert decide(record, KEPT) == []
    assert decide(record, {}) == [GrantLease("s1")]


def test_the_condition_passes_too_when_the_route_is_readable_again():
    record = waiting(stage_requested("s1", 3, 2), temporary=tuple(_targets(KEPT)))
    assert decide(record, KEPT, unreadable=("cat",)) == []
    assert decide(record, KEPT, routes={**ROUTES, "cat": route(model="cat")}) == [GrantLease("s1")]


def test_a_target_that_failed_takes_no_memory():
    failed = {name: held(7, Phase.FAILED, model="cat") for name in KEPT}
    assert decide(waiting(stage_requested("s1", 3, 2)), failed) == [GrantLease("s1")]


def test_what_fits_goes_before_what_waits_for_memory():
    record = waiting(stage_requested("s1", 3, 2), stage_requested("s2", 2, 1))
    assert decide(record, KEPT) == [GrantLease("s2")]


def test_what_waits_for_memory_ends_as_expired():
    record = waiting(stage_requested("s1", 3, 2))
    (failed,) = decide(record, KEPT, seconds=LIMITS.lease_age_s + 1)
    assert (failed.code, failed.lease.lease_id) == ("order_expired", "s1")


def test_what_does_not_fit_beside_production_alone_fails_whatever_stays():
    (failed,) = decide(waiting(stage_requested("s1", 3, 2, weights=500)), KEPT)
    assert isinstance(failed, FailLease)
    assert (failed.code, dict(failed.details)["needed_bytes"]) == ("insufficient_memory", 1200)


def test_a_copy_on_a_silent_endpoint_takes_memory_so_that_what_does_not_fit_beside_it_waits_and_the_smaller_goes():
    """Four of five places are needed by s1, two of them by production; two copies are left behind."""
    copies = {("two", f"bot.v{version}.bf16"): held(version, endpoint="two") for version in (0, 1)}
    limits = replace(LIMITS, endpoints={"default": "default", "two": "default"})
    loaded = {"bot.v0.bf16": held(0), "bot.v1.bf16": held(1)}

    def answers(record, copies, down=()):
        waited_s = dict.fromkeys(("s1", "s2"), 0.0)
        silent = dict.fromkeys(down, 500.0)
        return decide_answers(record, ROUTES, loaded, limits, at(0), waited_s=waited_s, down=silent, copies=copies)

    both = waiting(stage_requested("s1", 3, 2), stage_requested("s2", 2, 1))
    assert answers(both, []) == [GrantLease("s1")]
    assert answers(both, copies) == [GrantLease("s2")]
    holding = staging.grant_lease(both, "s1")
    assert answers(holding, copies, ["two"]) == [ReturnLease("s1")], "its memory is taken there, and another one fits"
    assert answers(holding, copies) == [], "the copies go soon"


def _targets(names):
    for name in names:
        model, version, variant = name.split(".")
        yield Target(model=model, version=int(version[1:]), variant=variant)
