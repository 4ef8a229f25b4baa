"""Rehearsals in virtual time: a monitor and a gateway in memory around the real controller, and what can go wrong."""

import asyncio
import contextlib
import functools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import facts as cf
from contracts.vocabulary import Runtime
from decisions.evidence.block_tests import BLOCK_S, count_bad_blocks, plan_line
from services.rollback_controller.domain.rehearsal_plan import Load, advise_time, answer_s, assess_fault, plan_fault
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World

SLOW, ERRORS = f.trigger(name="slow"), f.trigger(name="errors", metric="error_ratio", threshold=0.02)
DETECT_S = 6.0
SLOW_FLOWS = 2
"""Flows of an attempt for a trigger that bounds a time: the fallback's before the fault, then the candidate's."""


class Stage(World):
    """Staging with a candidate (7) and a fallback (6), telemetry, and a monitor that detects what is injected."""

    def __init__(self, triggers=(SLOW, ERRORS)) -> None:
        super().__init__(rehearsal_detect_s=30.0)
        self.triggers = triggers
        self.numb = False
        self.nervous = False
        self.fallback_ms = 50.0
        self.alerts = 0
        self.open_alert = None
        self.candidates = (7,)
        self.detected = 0
        """Alerts that were raised before the second release."""

    async def observe(self) -> None:
        """Publish telemetry of the serving target, and alerts about faults, as gateway and monitor do; for ever."""
        bad_s, seen = 0.0, 0
        while True:
            await asyncio.sleep(1.0)
            changes = [route for environment, route in self.routes.history if environment == "staging"]
            candidates = tuple(map(f.target, self.candidates))
            left = any(route.active is None or route.active.target not in candidates for route in changes[seen:])
            seen = len(changes)
            route, drill = self.route("staging"), self.drills.drills.get(f"staging.{f.MODEL}")
            serving = route.active.target if route and route.active else None
            if left:  # from a target that takes no traffic everything is taken back
                self.resolve()
                bad_s = 0.0
            if serving is None or not self.traffic.open or self.traffic.mode != "well":
                continue
            ill = drill is not None and drill.share_ratio > 0 and drill.target == serving
            well_ms = 50.0 if serving in candidates else self.fallback_ms
            self.requests(serving.version, 4, "staging", ttft_ms=5000.0 if ill else well_ms)
            if serving in candidates:
                bad_s += 1.0 if ill or self.nervous else 0.0
                if bad_s >= DETECT_S and not self.numb:
                    self.raise_or_update_alert(self.state("staging").rehearsing, serving.version)

    def raise_or_update_alert(self, trigger, version=7) -> None:
        """Raise an alert, or update it while it lasts."""
        if self.open_alert is None:
            self.alerts += 1
            self.open_alert = (trigger, self.alerts, self.clock.true_time())
            kind = cf.AlertRaised
        else:
            kind = cf.AlertUpdated
        name, number, raised_at = self.open_alert
        alert = self.alert(version, trigger=name, number=number, kind=kind, raised_at=raised_at)
        self.publish(alert, environment="staging")

    @contextlib.contextmanager
    def nothing_delivered(self):
        """Store what is published meanwhile, and deliver it with what is published next."""
        bus, self.bus = self.bus, None
        try:
            yield
        finally:
            self.bus = bus

    def resolve(self) -> None:
        """Resolve the alert: its target takes no traffic."""
        if self.open_alert is not None:
            name, number, _ = self.open_alert
            self.publish(self.alert(7, trigger=name, number=number, kind=cf.AlertResolved), environment="staging")
            self.open_alert = None

    def request(self) -> None:
        """Ask for a rehearsal: the policy, what to rehearse, and that it is staged, in this order."""
        self.open_releases(7, triggers=self.triggers)
        self.publish(
            cf.RehearsalRequested(
                release_id="r-7",
                candidate=f.deployable(7),
                fallback=f.deployable(6),
                triggers=self.triggers,
                policy_digest=f.digest("policy"),
            )
        )
        self.stage()

    def stage(self) -> None:
        """Publish that candidate and fallback are served in staging."""
        asked = f.staging_request(purpose="rehearsal", release_id="r-7", candidate=f.deployable(7))
        self.publish(
            f.fact(cf.VariantStaged, candidate=f.served(7), baseline=f.served(6), request=asked), event_id="s-1"
        )

    def outcome_of_rehearsal(self):
        """Return the one outcome that was published."""
        (completed,) = self.log.facts(cf.RehearsalCompleted)
        return completed


async def play(stage, *, lasts_s=400.0, then=None):
    running = [asyncio.create_task(stage.observe()), asyncio.create_task(stage.keep_running())]
    await asyncio.sleep(0)
    stage.request()
    if then is not None:
        await then(stage)
    await asyncio.sleep(lasts_s)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await stage.stop()
    assert stage.streams.unacknowledged() == []
    assert stage.route().active is None if stage.route() else True
    return stage


def check_cleared(stage):
    """Check that nothing is left of a rehearsal."""
    assert stage.route("staging").active is None
    assert stage.drills.drills[f"staging.{f.MODEL}"].share_ratio == 0.0
    assert (stage.state("staging").rehearsing, stage.traffic.open) == ("", 0)
    begun = [fact.rollback_id for fact in stage.log.facts(cf.RollbackStarted, "staging")]
    ended = [*stage.log.facts(cf.RollbackCompleted, "staging"), *stage.log.facts(cf.RollbackFailed, "staging")]
    ends = [fact.rollback_id for fact in ended if fact.rollback_id in begun]
    assert sorted(ends) == sorted(begun), "each rollback that began says how it ended"


@pytest.mark.parametrize(
    ("metric", "threshold", "says"),
    [
        ("e2e_ms", 60_000, r"fault delay_ms=120100 takes 120.1 s, .* within 30 s.*REHEARSAL_DETECT_S to 195"),
        ("itl_ms", 5_000, r"fault token_delay_ms=10100 takes 30.3 s, .* within 30 s"),
    ],
)
@virtual_time
async def test_a_trigger_that_no_rehearsal_can_show_in_its_time_is_refused_before_a_fault(metric, threshold, says):
    late = f.trigger(name="late", metric=metric, threshold=float(threshold), min_requests=20)
    stage = await play(Stage((SLOW, late)))
    completed = stage.outcome_of_rehearsal()
    assert (completed.verdict, completed.certificates, stage.traffic.flows) == ("fail", (), 0)
    assert re.search(says, completed.reason)
    check_cleared(stage)


@given(st.sampled_from(["ttft_ms", "e2e_ms", "itl_ms", "queue_ms"]), st.floats(1.0, 299_000.0), st.floats(0.01, 0.9))
def test_the_time_that_the_advice_names_is_one_in_which_the_trigger_is_not_refused(metric, threshold, allowed):
    trigger, load = f.trigger(name="late", metric=metric, threshold=threshold, allowed_ratio=allowed), Load()
    fault = plan_fault(trigger)
    advised = int(re.search(r"up to (\d+) s", advise_time(trigger, fault, load, 1.0))[1])
    assert assess_fault(trigger, fault, load, float(advised)) == ""
    assert advised >= answer_s(fault, load) + count_bad_blocks(allowed, plan_line(168.0, 16)) * BLOCK_S


@virtual_time
async def test_each_trigger_is_detected_switched_and_verified():
    stage = await play(Stage())
    completed = stage.outcome_of_rehearsal()
    assert (completed.verdict, [certificate.trigger for certificate in completed.certificates]) == (
        "pass",
        ["slow", "errors"],
    )
    for certificate in completed.certificates:
        assert DETECT_S - 1 < certificate.detect_s < DETECT_S + 3
        assert certificate.switch_s < 1
    check_cleared(stage)


@pytest.mark.parametrize(("before_s", "verdict"), [(4.0, "pass"), (3.0, "fail"), (0.05, "fail")])
@virtual_time
async def test_a_fallback_that_is_too_slow_for_the_trigger_is_compared_with_its_answers_before_the_fault(
    before_s, verdict
):
    stage = Stage((SLOW,))
    stage.fallback_ms, stage.traffic.answers_s = 5000.0, before_s
    completed = (await play(stage)).outcome_of_rehearsal()
    assert completed.verdict == verdict, completed.reason
    assert len(completed.certificates) == (verdict == "pass")
    (rollback,) = stage.log.facts(cf.RollbackCompleted, "staging")
    assert rollback.verdict == verdict
    check_cleared(stage)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda stage: setattr(stage.traffic, "mode", "silent"), "does not answer in staging without a fault: nothing"),
        (lambda stage: setattr(stage.traffic, "mode", "refusing"), "the gateway answered 503"),
        (
            lambda stage: setattr(stage, "numb", True),
            "no alert within 30 s of the fault delay_ms=1700. ",
        ),
        (lambda stage: stage.probe.unloaded.add(str(f.target(6))), "previous_not_ready"),
        (lambda stage: stage.probe.hanging.add(str(f.target(6))), "previous_not_ready"),
        (lambda stage: setattr(stage, "triggers", (f.trigger(name="drift", metric="drift"),)), "declare it manual"),
    ],
    ids=["silent gateway", "gateway refuses", "blind monitor", "unloaded fallback", "hanging fallback", "drift"],
)
@virtual_time
async def test_whatever_is_missing_fails_the_rehearsal_and_says_what(prepare, reason):
    stage = Stage()
    prepare(stage)
    await play(stage)
    completed = stage.outcome_of_rehearsal()
    assert completed.verdict == "fail"
    assert reason in completed.reason
    if "manual" not in reason:
        check_cleared(stage)


@virtual_time
async def test_a_fallback_that_once_does_not_answer_in_time_is_tried_again_as_in_production():
    async def recover(stage):
        while not stage.log.facts(cf.RollbackFailed, "staging"):
            await asyncio.sleep(0.5)
        stage.probe.hanging.clear()

    stage = Stage((SLOW,))
    stage.probe.hanging.add(str(f.target(6)))
    await play(stage, then=recover)
    (failed,) = stage.log.facts(cf.RollbackFailed, "staging")
    completed = stage.outcome_of_rehearsal()
    assert (failed.code, completed.verdict) == ("previous_not_ready", "pass"), completed.reason
    (certificate,) = completed.certificates
    assert certificate.switch_s > 1, "from the alert on, with the time in which the fallback did not answer"
    check_cleared(stage)


@virtual_time
async def test_a_trigger_that_fires_without_a_fault_fails_the_rehearsal():
    stage = Stage()
    stage.nervous = True
    stage.traffic.rps = 0.5  # the healthy requests take longer than the detection
    await play(stage)
    assert "slow: it fired twice on healthy traffic in staging; its threshold is" in stage.outcome_of_rehearsal().reason
    assert stage.traffic.flows == 2 * SLOW_FLOWS
    check_cleared(stage)


@virtual_time
async def test_a_trigger_that_fires_before_the_fault_while_a_host_stalls_is_rehearsed_again():
    async def recover(stage):
        while not stage.log.facts(cf.RollbackStarted, "staging"):
            await asyncio.sleep(0.1)
        assert stage.drills.drills[f"staging.{f.MODEL}"].share_ratio == 0.0
        stage.nervous, stage.traffic.rps = False, 4.0

    stage = Stage()
    stage.nervous, stage.traffic.rps = True, 0.5
    await play(stage, then=recover)
    completed = stage.outcome_of_rehearsal()
    assert (completed.verdict, len(completed.certificates), stage.traffic.flows) == ("pass", 2, 2 * SLOW_FLOWS + 1)
    assert completed.reason.endswith(": slow, errors. Fired before the fault, and rehearsed again: slow.")
    check_cleared(stage)


@virtual_time
async def test_an_update_of_the_alert_before_that_comes_late_is_none_of_the_trigger_that_is_rehearsed_again():
    """The monitor's host stalls while the candidate leaves the route: it publishes once more, some seconds later."""

    async def stall(stage):
        while not stage.log.facts(cf.RollbackStarted, "staging"):
            await asyncio.sleep(0.1)
        stage.nervous, raised_at = False, stage.open_alert[2]
        while all(route.active is not None for name, route in stage.routes.history if name == "staging"):
            await asyncio.sleep(0.1)
        assert stage.drills.drills[f"staging.{f.MODEL}"].share_ratio == 0.0
        await asyncio.sleep(3.0)
        late = stage.alert(7, trigger="slow", number=1, kind=cf.AlertUpdated, raised_at=raised_at)
        stage.publish(late, environment="staging")

    stage = Stage(triggers=(SLOW,))
    stage.nervous, stage.traffic.rps = True, 0.5
    await play(stage, then=stall)
    completed = stage.outcome_of_rehearsal()
    assert (completed.verdict, stage.traffic.flows) == ("pass", 2 * SLOW_FLOWS), completed.reason
    check_cleared(stage)


@pytest.mark.parametrize("ahead_s", [-9.0, 9.0])
@virtual_time
async def test_clocks_of_hosts_that_are_apart_decide_nothing(ahead_s):
    """The monitor's clock is right, the controller's is not: an alert after the fault has an earlier time."""
    stage = Stage()
    stage.clock.jump(ahead_s)
    completed = (await play(stage)).outcome_of_rehearsal()
    assert (completed.verdict, stage.traffic.flows) == ("pass", SLOW_FLOWS + 1), completed.reason
    for certificate in completed.certificates:
        assert min(certificate.detect_s, certificate.switch_s, certificate.verify_s) >= 0.0


@virtual_time
async def test_an_alert_that_was_raised_before_the_fault_and_arrives_behind_it_certifies_nothing():
    async def hold_back(stage):
        while stage.traffic.flows < SLOW_FLOWS:
            await asyncio.sleep(0.01)
        with stage.nothing_delivered():
            stage.raise_or_update_alert("slow")
            (late,) = stage.streams.waiting[cf.AlertRaised, "staging"]
            late.not_before = float("inf")
        while stage.drills.drills[f"staging.{f.MODEL}"].share_ratio == 0.0:
            await asyncio.sleep(0.05)
        late.not_before = 0.0
        stage.bus.deliver()

    stage = Stage(triggers=(SLOW,))
    await play(stage, then=hold_back)
    completed = stage.outcome_of_rehearsal()
    (certificate,) = completed.certificates
    first = next(message.event for message in stage.log.stored if isinstance(message.event.data, cf.AlertRaised))
    assert (completed.verdict, stage.traffic.flows) == ("pass", 2 * SLOW_FLOWS)
    assert certificate.alert_event_id != first.id


@virtual_time
async def test_what_was_staged_for_a_benchmark_is_not_rehearsed():
    stage = Stage()
    stage.start()
    asked = f.staging_request(purpose="benchmark", release_id="r-7")
    stage.publish(f.fact(cf.VariantStaged, candidate=f.served(7), baseline=f.served(6), request=asked))
    await asyncio.sleep(60)
    assert stage.log.facts(cf.RehearsalCompleted) == []
    assert stage.streams.unacknowledged() == []
    await stage.stop()


@virtual_time
async def test_staged_again_after_its_outcome_the_same_outcome_is_published():
    async def staged_again(stage):
        await asyncio.sleep(300)
        stage.stage()

    stage = await play(Stage(), then=staged_again)
    assert stage.traffic.flows == SLOW_FLOWS + 1
    first, second = stage.log.facts(cf.RehearsalCompleted)
    assert first == second
    assert len({event_id for kind, event_id in stage.published() if kind == cf.RehearsalCompleted.TYPE}) == 1


async def release_8(stage, *, triggers=(SLOW, ERRORS), **changes):
    """Release version 8 after version 7 with the same policy, unless `changes` say otherwise, once 7 was rehearsed."""
    await asyncio.sleep(200.0)
    stage.detected = len(stage.log.facts(cf.AlertRaised, "staging"))
    stage.open_releases(8, triggers=triggers)
    about = {"release_id": "r-8", "candidate": f.deployable(8), "fallback": f.deployable(6), "triggers": triggers}
    stage.publish(cf.RehearsalRequested(**about, policy_digest=changes.pop("policy", f.digest("policy"))))
    asked = f.staging_request(purpose="rehearsal", release_id="r-8", candidate=f.deployable(8))
    candidate = f.served(8).model_copy(update=changes)
    fact = f.fact(cf.VariantStaged, candidate=candidate, baseline=f.served(6), request=asked)
    stage.publish(fact, event_id="s-8")


@virtual_time
async def test_targets_of_a_release_before_the_one_that_is_rehearsed_are_left():
    async def staged_late(stage):
        asked = f.staging_request(purpose="rehearsal", release_id="r-9", candidate=f.deployable(9))
        stage.publish(f.fact(cf.VariantStaged, candidate=f.served(9), baseline=f.served(6), request=asked))
        await asyncio.sleep(300.0)

    stage = await play(Stage(), then=staged_late)
    assert [completed.release_id for completed in stage.log.facts(cf.RehearsalCompleted)] == ["r-7"]
    assert stage.streams.unacknowledged() == []


@virtual_time
async def test_a_trigger_whose_alert_comes_in_a_new_log_is_rehearsed_again():
    """The log is lost behind the fault: numbers begin again, so that the alert seems older than the rehearsal."""

    async def lose_log(stage):
        await release_8(stage, policy=f.digest("another policy"))
        while stage.drills.drills[f"staging.{f.MODEL}"].share_ratio == 0.0:
            await asyncio.sleep(0.1)
        stage.log.stored.clear()

    stage = Stage()
    stage.candidates = (7, 8)
    await play(stage, then=lose_log)
    completed = stage.outcome_of_rehearsal()
    assert (completed.release_id, completed.verdict) == ("r-8", "pass"), completed.reason


@virtual_time
async def test_the_next_release_of_the_policy_rehearses_its_switch_and_detection_is_that_of_before():
    stage = await play(Stage(), then=release_8)
    first, second = stage.log.facts(cf.RehearsalCompleted)
    assert second.verdict == "pass"
    assert second.reason == "Switched and verified in staging; detection rehearsed with v7 on 2026-11-24: slow, errors."
    assert len(stage.log.facts(cf.AlertRaised, "staging")) == stage.detected == 2, "no fault, so no alert"
    *_, last = stage.log.facts(cf.RollbackCompleted, "staging")
    assert (last.failed, last.to, last.verdict) == (f.target(8), f.target(6), "pass")
    routes = [message.event.id for message in stage.log.stored if isinstance(message.event.data, cf.DeploymentChanged)]
    for before, now in zip(first.certificates, second.certificates, strict=True):
        same = ("trigger", "fault", "injected_at", "alert_event_id", "detect_s", "policy_digest")
        assert {name: getattr(now, name) for name in same} == {name: getattr(before, name) for name in same}
        assert (now.detected_with, now.candidate_digest) == (7, f.deployable(8).manifest.digest)
        assert now.route_event_id != before.route_event_id
        assert now.route_event_id in routes
        assert now.expires_at > before.expires_at
    check_cleared(stage)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": f.digest("another policy")},
        {"runtime": Runtime(engine="vllm", engine_version="another")},
        {"triggers": (ERRORS, f.trigger(name="late", metric="e2e_ms", threshold=900.0))},
    ],
    ids=["another policy", "another runtime", "another trigger"],
)
@virtual_time
async def test_detection_is_rehearsed_again_for_what_it_was_not_rehearsed_for(changes):
    stage = Stage()
    stage.candidates = (7, 8)
    await play(stage, then=functools.partial(release_8, **changes), lasts_s=300.0)
    _, second = stage.log.facts(cf.RehearsalCompleted)
    assert (second.verdict, [each.detected_with for each in second.certificates]) == ("pass", [None, None])
    assert len(stage.log.facts(cf.AlertRaised, "staging")) == stage.detected + 2
    check_cleared(stage)


@virtual_time
async def test_a_switch_to_a_fallback_that_does_not_generate_fails_the_rehearsal():
    async def unload(stage):
        await release_8(stage)
        stage.probe.unloaded.add(str(f.target(6)))

    stage = await play(Stage(), then=unload)
    _, second = stage.log.facts(cf.RehearsalCompleted)
    assert (second.verdict, second.certificates) == ("fail", ())
    assert second.reason == "the switch: it began, but the rollback failed (previous_not_ready)."
    check_cleared(stage)
