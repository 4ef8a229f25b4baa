"""What the rollback-controller's ports must do, whether real or not."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertResolved, DeploymentChanged, RehearsalRequested
from shared.storage.kv import Conflict
from testbed import factories as f
from tests.kit.drills import drill


class RoutesConformance:
    """Needs the fixture `routes` (Routes without a route)."""

    async def test_there_is_no_route_before_the_first_write(self, routes):
        assert await routes.get("production", f.MODEL) is None

    async def test_a_route_is_created_once_and_read_back(self, routes):
        await routes.put("production", f.route(epoch=1), None)
        assert (await routes.get("production", f.MODEL)).value == f.route(epoch=1)
        with pytest.raises(Conflict):
            await routes.put("production", f.route(epoch=2), None)
        assert (await routes.get("production", f.MODEL)).value.epoch == 1

    async def test_of_two_writers_that_read_the_same_route_one_is_refused(self, routes):
        await routes.put("production", f.route(epoch=1), None)
        entry = await routes.get("production", f.MODEL)
        await routes.put("production", f.route(epoch=2, cause_id="first"), entry.revision)
        with pytest.raises(Conflict):
            await routes.put("production", f.route(epoch=2, cause_id="second"), entry.revision)
        assert (await routes.get("production", f.MODEL)).value.cause_id == "first"

    async def test_of_writers_at_once_one_wins(self, routes):
        await routes.put("production", f.route(epoch=1), None)
        entry = await routes.get("production", f.MODEL)
        writes = (routes.put("production", f.route(epoch=2, cause_id=str(n)), entry.revision) for n in range(5))
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert sorted(str(type(result).__name__) for result in results) == ["Conflict"] * 4 + ["NoneType"]

    async def test_a_route_is_found_by_its_cause_while_the_history_goes_back_to_it(self, routes):
        assert await routes.find("production", f.MODEL, "cause-1") is None
        for epoch in range(1, 19):
            entry = await routes.get("production", f.MODEL)
            revision = entry.revision if entry else None
            await routes.put("production", f.route(epoch=epoch, cause_id=f"cause-{epoch}"), revision)
        assert await routes.find("production", f.MODEL, "cause-3") == f.route(epoch=3, cause_id="cause-3")
        assert await routes.find("production", f.MODEL, "cause-2") is None
        assert await routes.find("staging", f.MODEL, "cause-3") is None

    async def test_staging_and_production_are_two_routes(self, routes):
        await routes.put("production", f.route(epoch=1), None)
        await routes.put("staging", f.route(epoch=9), None)
        assert (await routes.get("production", f.MODEL)).value.epoch == 1
        assert (await routes.get("staging", f.MODEL)).value.epoch == 9


class DrillsConformance:
    """Needs the fixture `drills` (Drills without a drill)."""

    async def test_there_is_no_drill_before_the_first(self, drills):
        assert await drills.get("production", f.MODEL) is None

    async def test_the_last_drill_of_a_model_and_environment_counts(self, drills):
        await drills.put(drill())
        second = drill(drill_id="drill-2")
        await drills.put(second)
        await drills.put(drill(drill_id="drill-3", environment="staging"))
        assert await drills.get("production", f.MODEL) == second
        assert (await drills.get("staging", f.MODEL)).drill_id == "drill-3"

    async def test_a_drill_that_is_over_is_still_read(self, drills):
        over = drill(datetime.now(UTC) - timedelta(days=1))
        await drills.put(over)
        assert await drills.get("production", f.MODEL) == over


class AlertsConformance:
    """Needs the fixture `alerts` (Alerts on an empty log) and the method `store(event)`, which returns its sequence."""

    store: Callable[..., Any]

    async def test_an_alert_is_open_until_its_own_resolution_is_stored_behind_it(self, alerts):
        raised = await self.store(about(AlertRaised, "a-1"))
        assert not await alerts.resolved_since("production", f.MODEL, "a-1", raised)
        await self.store(about(AlertResolved, "a-2"))
        assert not await alerts.resolved_since("production", f.MODEL, "a-1", raised)
        resolved = await self.store(about(AlertResolved, "a-1"))
        assert await alerts.resolved_since("production", f.MODEL, "a-1", raised)
        assert await alerts.resolved_since("production", f.MODEL, "a-1", 0)
        assert not await alerts.resolved_since("production", f.MODEL, "a-1", resolved)

    async def test_another_model_and_another_environment_resolve_nothing(self, alerts):
        await self.store(about(AlertResolved, "a-1", model="another"))
        await self.store(about(AlertResolved, "a-1", environment="staging"))
        assert not await alerts.resolved_since("production", f.MODEL, "a-1", 0)
        assert await alerts.resolved_since("staging", f.MODEL, "a-1", 0)

    async def test_a_resolution_behind_many_others_is_found(self, alerts):
        for number in range(30):
            await self.store(about(AlertResolved, f"other-{number}"))
        await self.store(about(AlertResolved, "a-1"))
        assert await alerts.resolved_since("production", f.MODEL, "a-1", 0)

    async def test_the_last_change_of_a_route_is_found_by_model_and_environment(self, alerts):
        assert await alerts.last_route_change("staging", f.MODEL) == 0
        await self.store(about(DeploymentChanged, "1", environment="staging"))
        last = await self.store(about(DeploymentChanged, "2", environment="staging"))
        await self.store(about(DeploymentChanged, "3"))
        await self.store(about(DeploymentChanged, "4", environment="staging", model="another"))
        assert await alerts.last_route_change("staging", f.MODEL) == last

    async def test_what_was_raised_is_found_by_model_environment_and_order(self, alerts):
        assert await alerts.last_raised("staging", f.MODEL) == 0
        first = await self.store(about(AlertRaised, "a-1", environment="staging"))
        last = await self.store(about(AlertRaised, "a-2", environment="staging"))
        await self.store(about(AlertRaised, "a-3"))
        await self.store(about(AlertRaised, "a-3", environment="staging", model="another"))
        await self.store(about(AlertResolved, "a-3", environment="staging"))
        assert await alerts.last_raised("staging", f.MODEL) == last
        raised = [await alerts.raised_since("staging", f.MODEL, name, first) for name in ("a-1", "a-2", "a-3")]
        assert raised == [False, True, False]
        assert await alerts.raised_since("staging", f.MODEL, "a-1", first - 1)
        assert not await alerts.raised_since("staging", f.MODEL, "a-2", last)

    async def test_the_last_request_for_a_rehearsal_is_found_by_model(self, alerts):
        assert await alerts.rehearsal_requested(f.MODEL) is None
        await self.store(about(RehearsalRequested, "1"))
        await self.store(about(RehearsalRequested, "2"))
        await self.store(about(RehearsalRequested, "3", model="another"))
        assert (await alerts.rehearsal_requested(f.MODEL)).release_id == "2"


SENDER = f.source_for(AlertRaised).rpartition("/")[2]


class OpenAlertsConformance:
    """Needs the fixture `past` (OpenAlerts of `SENDER` on an empty log) and the method `store(event)`."""

    store: Callable[..., Any]

    async def test_what_was_raised_and_not_resolved_is_open(self, past):
        for kind, name in ((AlertRaised, "x/1"), (AlertRaised, "x/2"), (AlertResolved, "x/2"), (AlertRaised, "y/3")):
            await self.store(about(kind, name))
        await self.store(about(AlertRaised, "x/7", environment="staging"))
        await self.store(about(AlertRaised, "x/8", model="another"))
        await self.store(about(AlertRaised, "x/9").model_copy(update={"source": "/slipway/another"}))
        found = await past.read("production", f.MODEL)
        assert sorted(alert.alert_id for alert in found) == ["x/1", "y/3"]
        assert await past.read("production", "unheard-of") == ()

    async def test_an_alert_that_is_raised_again_after_it_was_resolved_is_open(self, past):
        for number, kind in enumerate((AlertRaised, AlertResolved, AlertRaised)):
            await self.store(about(kind, "z/1").model_copy(update={"id": f"z-{number}"}))
        (alert,) = await past.read("production", f.MODEL)
        assert alert.alert_id == "z/1"


def about(kind, name, *, model=f.MODEL, environment="production"):
    """Return an event about an alert or a release of that name, or about a route."""
    named = {DeploymentChanged: {}, RehearsalRequested: {"release_id": name}}.get(kind, {"alert_id": name})
    fact = f.fact(kind, **named)
    about = {"id": f"{kind.TYPE}-{name}-{model}-{environment}", "subject": model, "environment": environment}
    return Event[kind](**(dict(f.event(fact)) | about | {"data": fact}))


class ProbeConformance:
    """Needs the fixtures `probe` (deadline 1 s), served targets: `ready`, `unloaded`, `hanging` and `late` (its engine)."""

    async def test_a_target_that_generates_answers(self, probe, ready):
        assert await probe.answers(ready) is None

    async def test_as_many_endpoints_as_are_needed_have_to_generate(self, probe, ready):
        served = ready.model_copy(update={"endpoints": ("127.0.0.1:1", *ready.endpoints)})
        assert await probe.answers(served) is None
        assert "127.0.0.1:1" in await probe.answers(served, 2)
        assert await probe.answers(ready, len(ready.endpoints) + 1) is not None

    async def test_a_target_that_is_not_loaded_says_where_and_why(self, probe, unloaded):
        why = await probe.answers(unloaded)
        assert unloaded.endpoints[0] in why

    async def test_a_target_that_hangs_is_given_up_in_time(self, probe, hanging):
        async with asyncio.timeout(5):
            why = await probe.answers(hanging)
        assert hanging.endpoints[0] in why


class TrafficConformance:
    """Needs the fixtures `traffic` (about 50 requests per second) and `gateway` (`mode`: well, refusing or silent)."""

    async def test_good_answers_are_counted_while_it_lasts_and_then_no_more(self, traffic):
        async with traffic.flow(f.MODEL) as flow:
            await until(lambda: len(flow.seconds) >= 5)
            assert flow.last_failure == ""
        after = len(flow.seconds)
        async with traffic.flow(f.MODEL) as later:
            await until(lambda: len(later.seconds) >= 5)
        assert len(flow.seconds) == after

    async def test_refusals_are_not_counted_and_their_reason_is_kept(self, traffic, gateway):
        gateway.mode = "refusing"
        async with traffic.flow(f.MODEL) as flow:
            await until(lambda: flow.last_failure)
            assert "503" in flow.last_failure
            assert flow.seconds == []

    async def test_a_silent_gateway_answers_nothing_and_holds_nothing_up(self, traffic, gateway):
        gateway.mode = "silent"
        async with asyncio.timeout(10):
            async with traffic.flow(f.MODEL) as flow:
                await asyncio.sleep(0.3)  # fifteen requests of one that answers
            assert flow.seconds == []


async def until(condition, within_s=10.0):
    """Wait until a condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
