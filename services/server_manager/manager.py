"""The reconcile loop. Each pass reads, decides and acts; an event only makes the next pass begin sooner."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from services.server_manager.answers import Answers
from services.server_manager.domain.alerts import assess_standby, plan_alerts
from services.server_manager.domain.decide import GrantLease, decide_answers
from services.server_manager.domain.progress import assess_progress
from services.server_manager.domain.reconcile import (
    Desired,
    Held,
    Limits,
    plan_alone,
    plan_desired,
    plan_kept,
    plan_reconcile,
    plan_temporary,
)
from services.server_manager.domain.records import LoadedTarget, Servers, target_of
from services.server_manager.executor import Executor
from services.server_manager.fleet_state import FleetState
from services.server_manager.ports import (
    Artifacts,
    Engine,
    Extent,
    Leadership,
    LeaseLost,
    ReportProgress,
    RouteListing,
    Routes,
)
from services.server_manager.publishing import BackgroundPublisher
from services.server_manager.renewing import renewing
from services.server_manager.waits import Waits
from shared.errors import SlipwayError
from shared.runtime.clock import Clock

DOWN_AFTER_S = 3.0
PUBLISH_WAIT_S = 1.0
"""How long a pass waits until its facts are published."""


class Manager:
    """Makes one engine match the desired state, and answers the orders that wait for it."""

    def __init__(
        self,
        *,
        engine: Engine,
        artifacts: Artifacts,
        state: FleetState,
        routes: Routes,
        lead: Leadership,
        report_progress: ReportProgress,
        clock: Clock,
        limits: Limits,
        tick_s: float = 1.0,
    ) -> None:
        self._engine = engine
        self._artifacts = artifacts
        self._state = state
        self._routes = routes
        self._lead = lead
        self._desired: dict[str, Desired] | None = None
        self._report_progress = report_progress
        self._clock = clock
        self._limits = limits
        self._tick_s = tick_s
        self._wake = asyncio.Event()
        self._log = structlog.get_logger()
        self._answered: float | None = None
        self._disarmed: dict[str, float] = {}
        self._listed: frozenset[str] | None = None
        self._waits = Waits(clock)
        self._publisher = BackgroundPublisher(state)
        self.executor = Executor(engine, artifacts, clock, limits, lead, on_change=self.wake)
        self._answers = Answers(
            engine=engine,
            artifacts=artifacts,
            state=state,
            routes=routes,
            clock=clock,
            limits=limits,
            token=self.executor.token,
        )

    def wake(self) -> None:
        """Begin the next pass soon."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile for ever: on every wake, and at least every `tick_s`."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.run_pass()
                except SlipwayError as error:
                    self._log.warning("reconcile postponed", code=error.code, reason=error.reason)
                except LeaseLost as error:
                    self._log.warning("reconcile postponed", why=str(error))
                except Exception:  # noqa: BLE001 - the next pass begins anew
                    # Level-triggered: whatever went wrong, the next pass starts from what is really there.
                    self._log.exception("reconcile failed")
                await self._rest()
        finally:
            await self.executor.stop()
            await self._publisher.stop()
            try:
                await self._lead.release()
            except Exception as error:  # noqa: BLE001 - the lease lapses by itself
                self._log.warning("lease not released", error=repr(error))

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._tick_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def run_pass(self) -> None:
        """Run one pass: answer what can be answered, begin what must be done.

        Without the bus nothing is answered and nothing removed, but what was desired last is still kept alive, unless
        another process took the engine over. Nothing is begun before the engine has listed what it holds.
        """
        try:
            leads = await self._lead.hold()
        except Exception:
            if self._lead.superseded():
                await self._stand_back()
            elif self._desired is not None and await self._read_index() and self.executor.known:
                self._begin_alone(self._desired)
            raise
        if not leads:
            await self._stand_back()
            return
        try:
            async with renewing(self._lead):
                await self._reconcile()
        finally:
            self._publisher.publish_soon()
        await self._publisher.wait(PUBLISH_WAIT_S)
        await self._remove_copies()

    async def _reconcile(self) -> None:
        answers = await self._read_index()
        await self._answer_orders()
        self._publisher.publish_soon()
        record, listing = await self._state.read(), await self._routes.all()
        routes = listing.routes
        await self._check_lease()
        # Before anything is healed, or an alert about what heals within a moment would never be raised.
        await self._alert(record, listing, answers=answers)
        self._publisher.publish_soon()
        self._desired = desired = plan_desired(routes, record)
        if self.executor.known:
            temporary = plan_temporary(record, routes, desired, self.executor.held(), self._listed)
            if temporary != record.temporary:
                # Before anything of it is loaded: killed in between, it would never be unloaded.
                await self._state.write(lambda record: record.model_copy(update={"temporary": temporary}))
            if answers:
                self._begin(desired, plan_kept(routes, listing.unreadable, temporary, self.executor.held()))
        for cause, progress in assess_progress(record, self.executor.held()):
            await self._report_progress(cause, progress)
        await self._check_lease()
        await self._publish_view(answers=answers)

    async def _remove_copies(self) -> None:
        """Remove the local copies of what is neither desired nor held; one that cannot be removed stays."""
        if self._desired is None or not self.executor.known or self.executor.busy:
            return
        kept = {target.deployable.manifest.digest for target in self._desired.values()}
        try:
            await self._artifacts.keep_only(kept | {target.digest for target in self.executor.held().values()})
        except OSError as error:
            self._log.warning("local copies could not be removed", error=repr(error))

    async def _stand_back(self) -> None:
        """Forget what was desired and drop what is being done: another process leads."""
        self._desired, self._disarmed, self._answered = None, {}, None
        self._waits.note(())
        await self.executor.stop()

    async def _check_lease(self) -> None:
        """Raise LeaseLost when the last renewal is too long ago to answer for the fleet, and another one fails."""
        if not self._lead.valid() and await self._lead.confirm() is not Extent.ALL:
            raise LeaseLost("the lease was not renewed in time; the next pass starts again")

    async def _answer_orders(self) -> None:
        record, listing = await self._state.read(), await self._routes.all()
        waited_s = self._note_waits(record)
        for answer in decide_answers(
            record,
            listing.routes,
            self.executor.held(),
            self._limits,
            self._clock.now(),
            waited_s=waited_s,
            unreadable=listing.unreadable,
        ):
            await self._check_lease()
            try:
                await self._answers.carry_out(answer)
            except Exception as error:  # noqa: BLE001 - raised again where it concerns the others as well
                refusal = await self._answers.settle_failure(answer, error, waited_s)
                if refusal is not None:
                    await self._check_lease()
                    await self._answers.carry_out(refusal)
                continue
            if isinstance(answer, GrantLease):
                self._waits.begin(answer.lease_id)
            self.wake()

    def _note_waits(self, record: Servers) -> Mapping[str, float]:
        ids = {order.order_id for order in record.orders}
        return self._waits.note(ids if record.lease is None else ids | {record.lease.lease_id})

    def _begin(self, desired: dict[str, Desired], kept: frozenset[str]) -> None:
        self.executor.note_needed({**desired, **dict.fromkeys(kept)})
        for action in plan_reconcile(desired, self.executor.held(), self._limits, kept):
            self.executor.start(action)

    def _begin_alone(self, desired: dict[str, Desired]) -> None:
        for action in plan_alone(desired, self.executor.held(), self._limits):
            self.executor.start(action)

    async def _read_index(self) -> bool:
        """Ask the engine what it holds; False while it does not answer."""
        asked_at = self._clock.monotonic()
        self._answered = asked_at if self._answered is None else self._answered
        self._listed = None
        try:
            index = await self._engine.index()
        except SlipwayError as error:
            self._log.warning("the engine does not answer", code=error.code, reason=error.reason)
            return False
        self._answered = self._clock.monotonic()
        if index is not None:
            self.executor.note_index(index, asked_at)
            self._listed = frozenset(name for name, entry in index.items() if entry.ready or not entry.settled)
        return True

    # -- what others see --------------------------------------------------------------------------------------------

    async def _alert(self, record: Servers, listing: RouteListing, *, answers: bool) -> None:
        """Raise and resolve alerts, unless it is unknown what the engine holds."""
        now, held = self._clock.monotonic(), self.executor.held()
        up = answers or self._answered is None or now - self._answered < DOWN_AFTER_S
        if up and not (answers and self.executor.known):
            return
        disarmed = assess_standby(listing.routes, held, server_ready=up)
        self._disarmed = {model: self._disarmed.get(model, now) for model in disarmed}
        for change in plan_alerts(
            record,
            listing.routes,
            held,
            unreadable=listing.unreadable,
            server_ready=up,
            grace_s=self._limits.standby_grace_s,
            now=self._clock.now(),
            disarmed_s={model: now - since for model, since in self._disarmed.items()},
        ):
            await self._answers.change_alert(change)

    async def _publish_view(self, *, answers: bool) -> None:
        view: dict[str, Any] = {
            "endpoint": self._engine.endpoint,
            "server_ready": answers,
            "memory_budget_bytes": self._limits.memory_budget_bytes,
        }
        if self.executor.known:
            loaded = (_as_loaded(name, held) for name, held in sorted(self.executor.held().items()))
            view["loaded"] = tuple(filter(None, loaded))
        await self._state.write(lambda record: record.model_copy(update=view))


def _as_loaded(name: str, held: Held) -> LoadedTarget | None:
    target = target_of(name)
    if target is None:
        return None
    return LoadedTarget(
        target=target,
        manifest_digest=held.digest,
        phase=held.phase,
        memory_bytes=held.memory_bytes,
        reason=held.reason,
    )
