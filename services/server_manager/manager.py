"""The reconcile loop: looks, decides, acts, and looks again; an event only makes it look sooner."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from contracts.codes import Code
from contracts.facts import (
    AlertRaised,
    AlertResolved,
    DeploymentChanged,
    PromotionRefused,
    VariantFailed,
    VariantStaged,
)
from contracts.facts.watch import Severity
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Deployable, Target
from decisions.route_edits import Changed, Edit, Refused, promote
from services.server_manager.domain import staging
from services.server_manager.domain.alerts import SayAlert, assess_standby, plan_alerts
from services.server_manager.domain.decide import (
    AnnounceStaged,
    ApplyOrder,
    FailLease,
    GrantLease,
    RefuseOrder,
    Step,
    assess_progress,
    decide_steps,
)
from services.server_manager.domain.fleet import (
    Held,
    Limits,
    Wanted,
    plan_alone,
    plan_desired,
    plan_kept,
    plan_reconcile,
    plan_temporary,
)
from services.server_manager.domain.records import FleetAlert, LoadedTarget, OpenAlert, Servers
from services.server_manager.fleet import Fleet
from services.server_manager.ports import Artifacts, Engine, Extent, Leadership, LeaseLost, Publish, Routes, State, Tell
from shared.errors import SlipwayError
from shared.messaging.bus import Emit
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint

DOWN_AFTER_S = 3.0
SEVERITY: dict[FleetAlert, Severity] = {"engine": "critical", "standby": "warning"}


class Manager:
    """Makes one engine match the desired state, and answers the orders that wait for it."""

    def __init__(
        self,
        *,
        engine: Engine,
        artifacts: Artifacts,
        state: State,
        routes: Routes,
        lead: Leadership,
        publish: Publish,
        tell: Tell,
        clock: Clock,
        limits: Limits,
        tick_s: float = 1.0,
    ) -> None:
        self._engine = engine
        self._artifacts = artifacts
        self._state = state
        self._routes = routes
        self._lead = lead
        self._desired: dict[str, Wanted] | None = None
        self._publish = publish
        self._tell = tell
        self._clock = clock
        self._limits = limits
        self._tick_s = tick_s
        self._wake = asyncio.Event()
        self._log = structlog.get_logger()
        self._answered = clock.monotonic()
        self._disarmed: dict[str, float] = {}
        self._listed: frozenset[str] | None = None
        self.fleet = Fleet(engine, artifacts, clock, limits, lead, on_change=self.wake)

    def wake(self) -> None:
        """Look again soon."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile for ever: on every wake, and at least every `tick_s`."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.tick()
                except SlipwayError as error:
                    self._log.warning("reconcile put off", code=error.code, reason=error.reason)
                except LeaseLost as error:
                    self._log.warning("reconcile put off", why=str(error))
                except Exception:  # noqa: BLE001
                    # Level-triggered: whatever went wrong, the next look starts from what is really there.
                    self._log.exception("reconcile failed")
                await self._rest()
        finally:
            await self.fleet.stop()
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

    async def tick(self) -> None:
        """Look once: answer what can be answered, begin what must be done.

        Without the bus nothing is answered and nothing removed, but what was desired last is still kept alive, unless
        another process took the engine over. Nothing is begun before the engine has listed what it holds.
        """
        try:
            leads = await self._lead.hold()
        except Exception:
            if self._lead.superseded():
                await self._stand_back()
            elif self._desired is not None and await self._look() and self.fleet.known:
                self._begin_alone(self._desired)
            raise
        if not leads:
            await self._stand_back()
            return
        answers = await self._look()
        await self._answer_orders()
        record, routes = await self._state.read(), await self._routes.all()
        await self._check_lease()
        # Before anything is healed, or what heals within a moment would never be told.
        await self._alert(record, routes, answers=answers)
        self._desired = desired = plan_desired(routes, record)
        if self.fleet.known:
            temporary = plan_temporary(record, routes, desired, self.fleet.held(), self._listed)
            if temporary != record.temporary:
                # Before anything of it is loaded: killed in between, it would never be unloaded.
                await self._state.edit(lambda record: record.model_copy(update={"temporary": temporary}))
            if answers:
                self._begin(desired, plan_kept(routes, temporary, self.fleet.held()))
        for cause, progress in assess_progress(record, self.fleet.held()):
            await self._tell(cause, progress)
        await self._check_lease()
        await self._publish_view(answers=answers)
        if self.fleet.known and not self.fleet.busy:
            kept = {one.deployable.manifest.digest for one in desired.values()}
            await self._artifacts.keep_only(kept | {one.digest for one in self.fleet.held().values()})

    async def _stand_back(self) -> None:
        """Forget what was desired and drop what is being done: another process leads."""
        self._desired, self._disarmed = None, {}
        await self.fleet.stop()

    async def _check_lease(self) -> None:
        """Raise LeaseLost when the last renewal is too long ago to answer for the fleet, and another one fails."""
        if not self._lead.valid() and await self._lead.confirm() is not Extent.ALL:
            raise LeaseLost("the lease was not renewed in time; the next look begins anew")

    async def _answer_orders(self) -> None:
        record, routes = await self._state.read(), await self._routes.all()
        for step in decide_steps(record, routes, self.fleet.held(), self._limits, self._clock.now()):
            await self._check_lease()
            await self._carry_out(step)
            self.wake()

    def _begin(self, desired: dict[str, Wanted], kept: frozenset[str]) -> None:
        self.fleet.note_wanted({**desired, **dict.fromkeys(kept)})
        for action in plan_reconcile(desired, self.fleet.held(), self._limits, kept):
            self.fleet.start(action)

    def _begin_alone(self, desired: dict[str, Wanted]) -> None:
        for action in plan_alone(desired, self.fleet.held(), self._limits):
            self.fleet.start(action)

    async def _look(self) -> bool:
        """Ask the engine what it holds; False while it does not answer."""
        asked_at = self._clock.monotonic()
        self._listed = None
        try:
            index = await self._engine.index()
        except SlipwayError as error:
            self._log.warning("the engine does not answer", code=error.code, reason=error.reason)
            return False
        self._answered = self._clock.monotonic()
        if index is not None:
            self.fleet.note_index(index, asked_at)
            self._listed = frozenset(name for name, entry in index.items() if entry.ready or not entry.settled)
        return True

    # -- answers ----------------------------------------------------------------------------------------------------

    async def _carry_out(self, step: Step) -> None:
        if isinstance(step, GrantLease):
            now = self._clock.now()
            await self._state.edit(lambda record: staging.grant_lease(record, step.lease_id, now))
        elif isinstance(step, FailLease):
            await self._fail_lease(step)
        elif isinstance(step, AnnounceStaged):
            await self._announce(step)
        elif isinstance(step, RefuseOrder):
            await self._refuse(step.order.order_id, step, step.code, step.reason)
        else:
            await self._apply(step)

    async def _fail_lease(self, step: FailLease) -> None:
        event = step.lease.event
        failed = VariantFailed(
            variant=event.data.candidate.target.variant,
            step="stage",
            code=step.code,
            reason=step.reason,
            details=dict(step.details),
            purpose=event.data.purpose,
            measurement_number=event.data.measurement_number,
        )
        await self._publish(Emit(failed), event)
        failpoint("server-manager.after_answer")
        await self._state.edit(lambda record: staging.drop_lease(record, step.lease.lease_id))

    async def _announce(self, step: AnnounceStaged) -> None:
        event, granted_at = step.lease.event, step.lease.granted_at
        request = event.data
        staged = VariantStaged(
            lease_id=step.lease.lease_id,
            candidate=await self._served(request.candidate),
            baseline=await self._served(request.baseline),
            request=request,
            load_s=(self._clock.now() - granted_at).total_seconds() if granted_at else 0.0,
            memory_bytes=self._limits.memory_bytes(request.candidate),
            first_token=self.fleet.token(str(request.candidate.target)),
        )
        await self._publish(Emit(staged), event)
        failpoint("server-manager.after_answer")
        await self._state.edit(lambda record: staging.mark_staged(record, step.lease.lease_id))

    async def _refuse(self, order_id: str, step: RefuseOrder | ApplyOrder, code: Code, reason: str) -> None:
        event = step.order.event
        refused = PromotionRefused(target=event.data.target.target, code=code, reason=reason)
        await self._publish(Emit(refused), event)
        failpoint("server-manager.after_answer")
        await self._state.edit(lambda record: staging.drop_order(record, order_id))

    async def _apply(self, step: ApplyOrder) -> None:
        """Edit the route, say so, forget the order: killed in between, the same order only says so again."""
        order_id, event = step.order.order_id, step.order.event
        request = event.data
        served = await self._served(request.target)
        fallback = await self._served(request.fallback) if request.fallback is not None else None

        def change(route: Route) -> Edit:
            return promote(
                route,
                served,
                weight_ratio=request.weight_ratio,
                epoch=request.epoch,
                cause_id=order_id,
                fallback=fallback,
            )

        edit = await self._routes.edit(event.subject, change)
        if isinstance(edit, Refused):
            await self._refuse(order_id, step, edit.code, edit.reason)
            return
        whole = "canary" if request.weight_ratio < 1.0 else "promote"
        cause = edit.cause if isinstance(edit, Changed) else whole
        changed = DeploymentChanged(route=edit.route, cause=cause, at=self._clock.now())
        await self._publish(Emit(changed), event)
        failpoint("server-manager.after_answer")
        await self._state.edit(lambda record: staging.drop_order(record, order_id))

    async def _served(self, deployable: Deployable) -> ServedTarget:
        about = await self._artifacts.describe(deployable)
        return ServedTarget(
            target=deployable.target,
            manifest=deployable.manifest,
            weights_bytes=deployable.weights_bytes,
            measurement_manifest=deployable.measurement_manifest,
            serving=deployable.serving,
            runtime=deployable.runtime,
            endpoints=(self._engine.endpoint,),
            chat_template=about.chat_template,
            bos_token=about.bos_token,
            eos_token=about.eos_token,
            context_tokens=about.context_tokens,
        )

    # -- what others see --------------------------------------------------------------------------------------------

    async def _alert(self, record: Servers, routes: Mapping[str, Route], *, answers: bool) -> None:
        now, held = self._clock.monotonic(), self.fleet.held()
        up = answers or now - self._answered < DOWN_AFTER_S
        if up and not (answers and self.fleet.known):
            return
        disarmed = assess_standby(routes, held, server_ready=up)
        self._disarmed = {model: self._disarmed.get(model, now) for model in disarmed}
        for change in plan_alerts(
            record,
            routes,
            held,
            server_ready=up,
            grace_s=self._limits.standby_grace_s,
            now=self._clock.now(),
            disarmed_s={model: now - since for model, since in self._disarmed.items()},
        ):
            await (self._raise(change) if change.what == "raise" else self._resolve(change))

    async def _raise(self, change: SayAlert) -> None:
        """Write it down, say it, note that it was said: killed in between, the next one says it again."""
        record = await self._state.edit(lambda record: staging.open_alert(record, change.alert))
        alert = next(one for one in record.alerts if one.alert_id == change.alert.alert_id)
        await self._publish(_about(alert, AlertRaised(**_told(alert), message=alert.message), "raised"))
        await self._state.edit(lambda record: staging.mark_said(record, alert.alert_id))

    async def _resolve(self, change: SayAlert) -> None:
        alert = change.alert
        await self._publish(_about(alert, AlertResolved(**_told(alert), message=change.message), "resolved"))
        await self._state.edit(lambda record: staging.close_alert(record, alert.alert_id))

    async def _publish_view(self, *, answers: bool) -> None:
        view: dict[str, Any] = {
            "endpoint": self._engine.endpoint,
            "server_ready": answers,
            "memory_budget_bytes": self._limits.memory_budget_bytes,
        }
        if self.fleet.known:
            view["loaded"] = tuple(_as_loaded(name, held) for name, held in sorted(self.fleet.held().items()))
        await self._state.edit(lambda record: record.model_copy(update=view))


def _told(alert: OpenAlert) -> dict[str, Any]:
    """Return what the facts of an alert have in common."""
    return {
        "alert_id": alert.alert_id,
        "kind": alert.kind,
        "severity": SEVERITY[alert.kind],
        "target": alert.target,
        "runbook": f"docs/runbooks/{alert.kind}.md",
        "raised_at": alert.raised_at,
    }


def _about(alert: OpenAlert, fact: AlertRaised | AlertResolved, what: str) -> Emit:
    """Name an alert's facts by when it was raised, so that saying one again is the same fact."""
    moment = f"{alert.alert_id}-{alert.raised_at.isoformat()}"
    return Emit(fact, model=alert.target.model, id=f"{moment}-{what}", correlation_id=alert.alert_id)


def _as_loaded(name: str, held: Held) -> LoadedTarget:
    model, version, variant = name.split(".")
    return LoadedTarget(
        target=Target.model_validate({"model": model, "version": int(version[1:]), "variant": variant}),
        manifest_digest=held.digest,
        phase=held.phase,
        memory_bytes=held.memory_bytes,
        reason=held.reason,
    )
