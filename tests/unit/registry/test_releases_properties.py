"""Neither order nor repetition of facts matters, and every release ends exactly once."""

from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.registry.domain import deadlines
from services.registry.domain.record import DeadlineReached, Input, Release, Superseded
from services.registry.domain.releases import decide
from tests.kit import fakes_registry as k
from tests.kit.soak import often
from tests.unit.registry.histories import (
    CAREFUL,
    CAREFUL_POLICY,
    HISTORIES,
    MEASURED,
    NOW,
    ONE_FAILS,
    REHEARSED,
    SHADOWED,
    STRAIGHT,
    emitted,
    inputs,
    walk,
)

UNCERTIFIED = k.rehearsed(certificates=(k.certificate("errors"),))
NOT_REHEARSED = {
    "failed": k.rehearsed("fail"),
    "uncertified": UNCERTIFIED,
    "unstaged": k.unstaged("int8"),
    "of another policy": k.rehearsed(of=CAREFUL_POLICY),
    "of another variant": k.rehearsed(variant="bf16"),
    "expired": k.rehearsed(certificates=tuple(k.certificate(trigger.name, expires_at=NOW) for trigger in k.AUTOMATIC)),
}


@cache
def walked_in_order(name):
    return walk(*HISTORIES[name])


def without_order(release: Release):
    """The state without what cannot but follow the order: which input was the last straw for each fact."""
    return release.model_copy(update={"outbox": ()})


@pytest.mark.parametrize("name", HISTORIES)
def test_in_order_the_release_ends(name):
    release = walk(*HISTORIES[name])
    assert release.finished is not None
    assert release.finished.outcome == ("rejected" if name == "one fails" else "promoted")
    assert k.key_of(release.outbox[-1]) == "release.finished"


@pytest.mark.parametrize("name", ["straight", "one is not servable", "careful", "shadowed", "rehearsed"])
@given(data=st.data())
@settings(max_examples=often(20), deadline=None)
def test_every_permutation_and_duplication_ends_in_the_same_state_and_facts(name, data):
    opening, received = HISTORIES[name]
    copies = data.draw(st.lists(st.sampled_from(received), max_size=6))
    order = data.draw(st.permutations([*received, *copies]))
    expected, got = walked_in_order(name), walk(opening, order)
    assert emitted(got) == emitted(expected)
    assert without_order(got) == without_order(expected)
    assert len(k.without_progress(got.outbox)) == len(k.without_progress(expected.outbox))


@given(order=st.permutations(ONE_FAILS[1]))
@settings(max_examples=often(20), deadline=None)
def test_a_release_where_nothing_passes_is_rejected_in_any_order(order):
    release = walk(ONE_FAILS[0], order)
    assert release.finished.outcome == "rejected"
    assert release.finished.code == "gate_failed"


@pytest.mark.parametrize("name", NOT_REHEARSED)
@given(data=st.data())
@settings(max_examples=often(20), deadline=None)
def test_without_a_good_rehearsal_traffic_is_never_ordered_in_any_order(name, data):
    """Not even when the route says that the target serves already: that was not ordered."""
    received = inputs(*MEASURED, NOT_REHEARSED[name], k.changed(k.route(k.target("int8"))))
    copies = data.draw(st.lists(st.sampled_from(received), max_size=4))
    release = walk(REHEARSED[0], data.draw(st.permutations([*received, *copies])))
    assert (release.finished.outcome, release.finished.code) == ("rejected", "rehearsal_failed")
    assert not any(key.startswith("traffic.requested") for key in emitted(release))


ENDERS = [
    k.cancel(),
    k.abandoned(),
    k.refused(),
    k.refused("bf16", "quarantined"),
    Superseded(by="r-newer"),
    k.failed("int8"),
    k.failed("bf16", "benchmark"),
    k.failed("int8", "stage"),
    k.rehearsed("fail"),
    k.assessed("int8", 0.1, "fail"),
    k.assessed("int8", 0.1, "inconclusive"),
    k.changed(k.route(k.target("bf16", 9), epoch=7, quarantined=(k.target("int8"),)), "rollback"),
    k.changed(k.route(k.target("bf16", 9), epoch=5), "rollback"),
    k.changed(k.route(None, epoch=8), "abort"),
    k.changed(k.route(k.target("bf16", 9), shadow=k.target("int8"), epoch=4), "shadow"),
    k.shadow_assessed("int8", "fail"),
    k.shadow_assessed("int8", "inconclusive"),
    k.shadow_assessed("bf16"),
    DeadlineReached(step="shadow"),
    *(
        DeadlineReached(step=s)
        for s in (
            "merge",
            "quantise",
            "register",
            "queue",
            "stage",
            "benchmark",
            "rehearsal",
            "approval",
            "traffic",
            "canary",
            "no such step",
        )
    ),
    k.quantised("awq-int4"),
    k.staged("int8", 4),
    k.benchmarked("int8", 4),
    k.benchmarked("int8", verdict="fail"),
    k.benchmarked("bf16", gates=()),
    k.quantised("int8", perplexity_ratio=9.0),
    k.approval(k.ref("other").digest),
    k.opened(),
    k.ready(),
    k.benchmarked("int8", verdict="inconclusive"),
    k.unstaged("int8"),
    k.unstaged("bf16"),
    UNCERTIFIED,
    k.failed("int8", "stage", purpose="benchmark"),
    k.rehearsed("inconclusive"),
]


@pytest.mark.parametrize("name", HISTORIES)
@given(data=st.data())
@settings(max_examples=often(20), deadline=None)
def test_any_fact_in_any_state_never_raises_and_a_release_ends_once(name, data):
    opening, received = HISTORIES[name]
    chosen = data.draw(st.lists(st.sampled_from(ENDERS), min_size=1, max_size=8))
    enders = [Input(f"x{i}", k.START + timedelta(seconds=500 + i), what) for i, what in enumerate(chosen)]
    order = data.draw(st.permutations([*received, *enders]))
    far = data.draw(st.booleans())
    release = walk(opening, order, NOW + timedelta(days=30) if far else NOW)
    keys = [k.key_of(entry) for entry in release.outbox]
    assert len(keys) == len(set(keys))
    finished = [i for i, entry in enumerate(release.outbox) if entry.type == "slipway.release.finished.v1"]
    assert len(finished) <= 1
    assert (release.finished is not None) == (finished == [len(keys) - 1])
    staged = {key.partition(":")[2] for key in keys if key.startswith("stage.requested:")}
    if release.finished is not None:
        assert staged == {key.partition(":")[2] for key in keys if key.startswith("stage.released:")}
        assert deadlines.awaited_step(release) is None
    else:
        assert deadlines.deadline_at(release) is not None
    if opening.policy.rehearsal == "required" and any(key.startswith("traffic.requested") for key in keys):
        assert release.rehearsed == k.rehearsed(of=opening.policy), "the one good rehearsal of its history"
    assert Release.model_validate_json(release.model_dump_json()) == release


@given(data=st.data())
@settings(max_examples=often(20), deadline=None)
def test_a_release_that_waits_too_long_always_ends(data):
    """From any reachable state, feeding the deadline of the awaited step, again and again, ends the release."""
    opening, received = data.draw(st.sampled_from([CAREFUL, REHEARSED, SHADOWED]))
    order = data.draw(st.permutations(received))
    release = walk(opening, order[: data.draw(st.integers(0, len(order)))])
    for i in range(5):
        step, at = deadlines.awaited_step(release), deadlines.deadline_at(release)
        if step is None:
            break
        early = decide(release, Input(f"d{i}", at, DeadlineReached(step=step)), at - timedelta(seconds=1))
        assert early.release == release
        release = decide(release, Input(f"d{i}", at, DeadlineReached(step=step)), at).release
    assert release.finished is not None


def test_what_follows_cites_the_input_or_its_cause():
    opening, received = STRAIGHT
    release = walk(opening, [received[0], *received[1:3], replace(received[3], id="r/manifest", cause_id="e3")])
    causes = {k.key_of(entry): entry.cause_id for entry in release.outbox}
    assert causes["release.opened"] == "e0"
    assert causes["variant.requested:int8"] == "e1"
    assert causes["version.registered"] == "e3"
