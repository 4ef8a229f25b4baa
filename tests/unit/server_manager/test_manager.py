"""The loop as a whole, pass by pass, on fakes: what it says, what it loads, what it leaves alone."""

import asyncio

import pytest

from contracts.facts import (
    AlertRaised,
    AlertResolved,
    DeploymentChanged,
    PromotionRefused,
    VariantFailed,
    VariantStaged,
)
from contracts.runtimes import DEFAULT_RUNTIME
from decisions.releases.provenance import Problem
from services.server_manager.domain import staging
from services.server_manager.indexes import DOWN_AFTER_S
from shared.errors import Permanent, Transient
from tests.kit.records import raising
from tests.unit.server_manager.factories import (
    deployable,
    route,
    stage_released,
    stage_requested,
    traffic_requested,
)
from tests.unit.server_manager.world import V0, V1, V2, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def test_an_order_is_loaded_probed_applied_said_and_forgotten(world):
    await world.order(traffic_requested("t1", 1, fallback=0))
    await world.ticks()
    (changed,) = world.said.facts(DeploymentChanged)
    assert changed.route == world.routes.routes["bot"]
    assert changed.route.active.endpoints == (world.engine.endpoint,)
    assert changed.route.active.chat_template == "t"
    assert changed.route.previous.target == deployable(0).target
    assert not world.state.record.orders
    assert {str(target.target): target.phase for target in world.state.record.loaded} == {V0: "ready", V1: "ready"}


@pytest.mark.parametrize("hours_later", [False, True])
async def test_an_order_that_comes_again_after_its_answer_changes_and_publishes_nothing(world, hours_later):
    await world.order(traffic_requested("t1", 1, fallback=0))
    await world.ticks()
    if hours_later:
        world.state.log.forget()
    await world.order(traffic_requested("t1", 1, fallback=0))
    await world.ticks()
    assert len(world.said.facts(DeploymentChanged)) == 1
    assert {emit.cause_id for emit in world.said.emits} == {"t1"}
    assert not world.state.record.orders
    assert world.routes.routes["bot"].epoch == 1


def answers_and_alerts(world):
    """Return the names of the answers, and what was said of alerts: bytes of another digest are one."""
    facts = [emit.fact for emit in world.said.emits]
    answers = [type(fact).__name__ for fact in facts if not isinstance(fact, AlertRaised | AlertResolved)]
    alerts = [fact.kind if isinstance(fact, AlertRaised) else "resolved" for fact in facts if hasattr(fact, "kind")]
    return answers, alerts


async def test_an_order_that_was_refused_and_comes_again_is_not_carried_out(world):
    world.artifacts.broken[deployable(1).manifest.digest] = Permanent("digest_mismatch", "not those bytes")
    await world.order(traffic_requested("t1", 1))
    await world.ticks()
    world.artifacts.broken.clear()
    await world.order(traffic_requested("t1", 1))
    await world.ticks(8, seconds=10)
    assert world.routes.routes == {}
    assert answers_and_alerts(world) == (["PromotionRefused"], ["provenance", "resolved"])


async def test_a_staging_order_that_failed_and_comes_again_is_not_carried_out(world):
    world.artifacts.broken[deployable(1).manifest.digest] = Permanent("digest_mismatch", "not those bytes")
    for _ in range(2):
        await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
        await world.ticks(8, seconds=10)
        world.artifacts.broken.clear()
    assert answers_and_alerts(world) == (["VariantFailed"], ["provenance", "resolved"])


async def test_staging_is_granted_announced_and_released(world):
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks()
    (staged,) = world.said.facts(VariantStaged)
    assert staged.lease_id == "s1"
    assert staged.load_s > 0
    await world.ticks(3)
    assert len(world.said.facts(VariantStaged)) == 1
    await world.state.write(lambda record: staging.release_staging(record, stage_released(1)))
    await world.ticks(4)
    assert set(world.phases()) == {V0, V1}, "what was staged lingers"
    await world.ticks(4, seconds=20)
    assert world.phases() == {}
    assert world.engine.models == {}


@pytest.mark.parametrize("purpose", ["benchmark", "rehearsal"])
async def test_a_corrupt_artifact_fails_the_lease_without_loading_and_says_which(world, purpose):
    world.artifacts.broken[deployable(1).manifest.digest] = Permanent("digest_mismatch", "not those bytes")
    asked = stage_requested("s1", 1, 0, purpose=purpose)
    await world.state.write(lambda record: staging.enqueue_staging(record, asked))
    await world.ticks()
    (failed,) = world.said.facts(VariantFailed)
    assert (failed.code, failed.step, failed.purpose) == ("digest_mismatch", "stage", purpose)
    assert V1 not in world.engine.loads
    assert world.state.record.lease is None


async def test_a_store_that_does_not_answer_delays_staging_and_does_not_fail_it(world):
    world.artifacts.broken[deployable(1).manifest.digest] = Transient("store_unavailable", "silent")
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks(8, seconds=10)
    assert world.said.facts(VariantFailed) == []
    world.artifacts.broken.clear()
    await world.ticks(8, seconds=10)
    assert [staged.lease_id for staged in world.said.facts(VariantStaged)] == ["s1"]


async def test_a_rehearsal_is_staged_after_the_benchmark_of_the_same_candidate(world):
    ended = stage_released(1, seconds=9, purpose="benchmark")
    for edit in (
        lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)),
        lambda record: staging.enqueue_staging(record, stage_requested("s2", 1, 0, purpose="rehearsal")),
    ):
        await world.state.write(edit)
    await world.ticks()
    assert [staged.lease_id for staged in world.said.facts(VariantStaged)] == ["s1"]
    await world.state.write(lambda record: staging.release_staging(record, ended))
    await world.ticks()
    first, second = world.said.facts(VariantStaged)
    assert (second.lease_id, second.request.purpose) == ("s2", "rehearsal")
    assert second.candidate == first.candidate
    assert world.engine.loads == [V0, V1], "what is still loaded is not loaded again"


async def test_what_is_not_attested_takes_no_traffic_and_what_serves_stays(world):
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    world.artifacts.unproven[str(deployable(2).target)] = Problem("attestation_missing", "no benchmark is attested")
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks(6)
    (refused,) = world.said.facts(PromotionRefused)
    assert (refused.code, refused.reason) == ("attestation_missing", "no benchmark is attested")
    assert world.routes.routes["bot"].active.target.version == 1
    assert {V0, V1} <= set(world.engine.models)


async def test_a_store_that_does_not_answer_delays_traffic_and_nothing_else(world):
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    world.artifacts.unproven[str(deployable(2).target)] = Transient("store_unavailable", "silent")
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks(8)
    del world.engine.models[V1]
    await world.ticks(4)
    assert V1 in world.engine.models, "what serves is healed meanwhile"
    assert world.said.facts(PromotionRefused) == []
    world.artifacts.unproven.clear()
    await world.ticks(6)
    (changed,) = world.said.facts(DeploymentChanged)
    assert changed.route.active.target.version == 2


async def test_an_order_that_moved_traffic_before_its_process_died_is_not_verified_again(world):
    world.routes.routes["bot"] = route(2, 1).model_copy(update={"cause_id": "t1"})
    world.artifacts.unproven[str(deployable(2).target)] = Problem("key_not_trusted", "revoked meanwhile")
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks(6)
    assert world.said.facts(PromotionRefused) == []
    assert len(world.said.facts(DeploymentChanged)) == 1


async def test_a_full_disk_is_tried_again_and_then_named(world):
    world.artifacts.broken[deployable(1).manifest.digest] = Transient("disk_full", "no space")
    await world.order(traffic_requested("t1", 1))
    await world.ticks(3)
    assert world.said.facts(PromotionRefused) == []
    await world.ticks(4, seconds=10)
    (refused,) = world.said.facts(PromotionRefused)
    assert refused.code == "load_failed"
    assert "no space" in refused.reason


async def test_dead_is_alerted_healed_and_resolved(world):
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    world.engine.dead.add(V1)
    await world.ticks(12)
    (raised,) = world.said.facts(AlertRaised)
    (resolved,) = world.said.facts(AlertResolved)
    assert raised.alert_id == resolved.alert_id == "engine-bot.v1.bf16"
    assert (raised.kind, raised.severity, raised.runbook) == ("engine", "critical", "docs/runbooks/engine.md")
    assert world.engine.loads == [V1, V0, V1]
    assert not world.state.record.alerts


async def test_silence_must_repeat_before_it_counts_as_death(world):
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    world.engine.mute.add(V1)
    await world.ticks(7)
    assert world.engine.loads == [V1, V0]
    await world.ticks(7)
    assert world.engine.loads == [V1, V0, V1]
    assert len(world.said.facts(AlertRaised)) == 1


async def test_a_restarted_engine_gets_everything_back_and_each_alert_is_said_once(world):
    world.routes.routes["bot"] = route(2, 1)
    await world.ticks()
    world.engine.down = True
    await world.ticks(8)
    assert {alert.alert_id for alert in world.said.facts(AlertRaised)} == {"engine-bot.v2.bf16", "standby-bot"}
    assert world.clock.seconds > DOWN_AFTER_S
    world.engine.restart()
    await world.ticks(4)
    assert set(world.engine.models) == {V1, V2}
    assert len(world.said.facts(AlertRaised)) == len(world.said.facts(AlertResolved)) == 2


async def test_without_the_bus_nothing_is_unloaded_and_the_dead_are_still_healed(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks()
    world.state.lost = True
    world.engine.dead.add(V1)
    for _ in range(12):
        with pytest.raises(Transient):
            await world.ticks(1)
        for _ in range(60):
            await asyncio.sleep(0)
    assert world.engine.loads == [V1, V1]
    assert world.phases() == {V1: "ready"}
    assert await world.engine.probe(V1, 1)


async def test_without_ever_having_seen_the_bus_nothing_is_touched(world):
    await world.engine.load(V1, await world.artifacts.materialise(deployable(1)), digest="d", memory_bytes=1)
    world.state.lost = True
    for _ in range(12):
        with pytest.raises(Transient):
            await world.ticks(1)
    assert set(world.engine.models) == {V1}


async def test_a_replica_without_the_lead_does_nothing(world):
    world.lease.set("another")
    world.routes.routes["bot"] = route(1)
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks()
    assert world.engine.models == {}
    assert world.said.emits == []
    world.lease.set("")
    await world.ticks()
    assert set(world.engine.models) == {V1, V2}


async def test_what_answers_otherwise_than_it_was_staged_does_not_become_ready(world):
    world.engine.differing.add(V1)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks(8, seconds=10)
    (failed,) = world.said.facts(VariantFailed)
    assert (failed.code, V1 in failed.reason) == ("logprobs_differ", True)


async def test_what_serves_and_answers_otherwise_serves_on_under_an_alert_until_it_does_not(world):
    world.routes.routes["bot"] = route(2, 1)
    await world.ticks()
    world.engine.differing.add(V2)
    await world.ticks(6, seconds=5)
    assert (world.phases(), world.engine.loads) == ({V1: "ready", V2: "ready"}, [V2, V1])
    (raised,) = world.said.facts(AlertRaised)
    assert (raised.kind, str(raised.target)) == ("provenance", V2)
    assert "serves, and is not what was staged" in raised.message
    world.start()
    await world.ticks()
    assert world.phases() == {V1: "ready", V2: "ready"}, "it generated, so another process counts it as ready, too"
    world.engine.differing.clear()
    await world.ticks(3, seconds=5)
    assert len(world.said.facts(AlertResolved)) == len(world.said.facts(AlertRaised)) == 1


async def test_a_reload_that_answers_otherwise_fails_until_one_does_not(world):
    world.routes.routes["bot"] = route(2, 1)
    await world.ticks()
    world.engine.differing.add(V2)
    world.engine.dead.add(V2)
    await world.ticks(6, seconds=5)
    assert world.phases()[V2] in {"failed", "loading"}
    assert {alert.kind for alert in world.said.facts(AlertRaised)} == {"engine", "provenance"}
    world.engine.differing.clear()
    await world.ticks(8, seconds=30)
    assert world.phases() == {V1: "ready", V2: "ready"}
    assert not world.state.record.alerts


async def test_an_index_older_than_a_load_does_not_undo_it(world):
    world.routes.routes["bot"] = route(1)
    stale = await world.engine.index()
    asked_at = world.clock.monotonic()
    await world.ticks()
    world.manager.executor.note_index(DEFAULT_RUNTIME, stale, asked_at)
    assert world.phases() == {V1: "ready"}
    world.manager.executor.note_index(DEFAULT_RUNTIME, stale, world.clock.monotonic() + 1)
    assert world.phases() == {}


async def test_an_engine_that_is_loading_says_nothing_of_what_it_holds_and_nothing_is_forgotten(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks()
    world.engine.loading = True
    await world.ticks(10)
    assert world.phases() == {V1: "ready"}
    assert world.engine.loads == [V1]
    assert world.view.stored[DEFAULT_RUNTIME].answers
    assert [alert for alert in world.said.facts(AlertRaised) if alert.kind == "engine"] == []


async def test_progress_is_told_while_targets_are_on_their_way_and_not_after(world):
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks(1)
    (cause, progress) = world.progress.reports[0]
    assert (cause, progress.step, progress.done, progress.total) == ("s1", "stage", 0, 2)
    assert V1 in progress.detail
    await world.ticks(3)
    reports = len(world.progress.reports)
    await world.ticks(3)
    assert len(world.progress.reports) == reports


async def test_a_copy_that_cannot_be_deleted_holds_back_no_answer_and_no_alert(world):
    world.artifacts.undeletable = PermissionError(13, "Permission denied")
    world.routes.routes["bot"] = route(1)
    await world.order(traffic_requested("t1", 2, epoch=9))
    await world.ticks(10)
    assert len(world.said.facts(PromotionRefused)) == len(world.said.facts(AlertRaised)) == 1
    assert world.view.stored[DEFAULT_RUNTIME].answers


async def test_an_answer_is_published_though_what_follows_in_the_same_look_fails(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks()
    await world.order(traffic_requested("t1", 2, epoch=9))
    faults = world.routes.bucket.faults
    faults.at[f"get {faults.counts['get'] + 2} before"] = raising(Transient("bus_unavailable", "lost"))
    with pytest.raises(Transient):
        await world.ticks(1)
    async with asyncio.timeout(10):
        while not world.said.facts(PromotionRefused):
            await asyncio.sleep(0)


async def test_a_silence_of_the_engine_counts_from_when_this_process_leads_again(world):
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    for _ in range(10):
        world.lease.set("another")
        await world.ticks(1)
    world.lease.set("")
    world.engine.down = True
    await world.ticks(2)
    world.engine.down = False
    await world.ticks()
    assert world.said.facts(AlertRaised) == []
