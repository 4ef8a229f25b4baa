"""Carries out decided answers and alerts; one record edit stores the fact and completes the order."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import structlog

from contracts.codes import Code
from contracts.envelope import Event
from contracts.facts import (
    DeploymentChanged,
    Fact,
    PromotionRefused,
    SuspensionJudged,
    TrafficRequested,
    VariantFailed,
    VariantStaged,
)
from contracts.facts.watch import Severity
from contracts.records import OutboxEntry, outbox_entry
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Deployable
from decisions.evidence.alerts import PlainAlert
from decisions.routes.edits import Changed, Edit, EditRefused, end_trial, has_trial, promote
from decisions.routes.edits import move as move_target
from decisions.serving.runtimes import why_no_runtime
from services.server_manager.domain import staging
from services.server_manager.domain.alerts import AlertChange
from services.server_manager.domain.answer_types import (
    AnnounceStaged,
    Answer,
    ApplyOrder,
    EndTrial,
    FailLease,
    GrantLease,
    RefuseOrder,
    ReturnLease,
)
from services.server_manager.domain.moves import Move
from services.server_manager.domain.reconcile import Held, Limits, home_of, production_of
from services.server_manager.domain.records import FleetAlert, Servers, TrafficOrder
from services.server_manager.fleet_state import FleetState
from services.server_manager.ports import Artifacts, Engines, Routes
from shared.errors import Permanent, Transient, translate
from shared.messaging.delivery import RECORD_FAILURES
from shared.runtime.clock import Clock

SEVERITY: dict[FleetAlert, Severity] = {"engine": "critical", "standby": "warning", "provenance": "critical"}


class Answers:
    """Executes the results of `decide_answers` and `plan_alerts`; repeating one after a crash has no further effect."""

    def __init__(
        self,
        *,
        engines: Engines,
        artifacts: Artifacts,
        state: FleetState,
        routes: Routes,
        clock: Clock,
        limits: Limits,
        held: Callable[[], Mapping[str, Held]],
        homes: Callable[[], Mapping[str, str]],
    ) -> None:
        self._engines = engines
        self._artifacts = artifacts
        self._state = state
        self._routes = routes
        self._clock = clock
        self._limits = limits
        self._held = held
        self._homes = homes
        self._edited: set[str] = set()
        """Ids of orders after the edit of the route and before the write of the answer."""

    async def carry_out(self, answer: Answer) -> None:
        """Carry out one answer."""
        if isinstance(answer, GrantLease):
            await self._state.write(lambda record: staging.grant_lease(record, answer.lease_id))
        elif isinstance(answer, ReturnLease):
            structlog.get_logger().warning("the lease is returned: its endpoint does not answer", lease=answer.lease_id)
            await self._state.write(lambda record: staging.return_lease(record, answer.lease_id))
        elif isinstance(answer, FailLease):
            await self._fail_lease(answer)
        elif isinstance(answer, AnnounceStaged):
            await self._announce(answer)
        elif isinstance(answer, RefuseOrder):
            await self._refuse(answer.order.event, answer.code, answer.reason)
        elif isinstance(answer, EndTrial):
            await self._end_trial(answer)
        else:
            await self._apply(answer)

    async def settle_failure(
        self, answer: Answer, error: Exception, waited_s: Mapping[str, float]
    ) -> FailLease | RefuseOrder | None:
        """Return the refusal of an order if its answer failed permanently or until its deadline; None to try again.

        An order that moved traffic is never refused. Raises errors that concern all orders, such as a silent bus.
        """
        known = translate(error) or Transient("internal_error", f"{type(error).__name__}: {error}.")
        if isinstance(known, Transient) and known.code not in RECORD_FAILURES:
            raise known from error
        log = structlog.get_logger().bind(code=known.code, reason=known.reason)
        if isinstance(answer, AnnounceStaged):
            order_id, model = answer.lease.lease_id, answer.lease.event.subject
        elif isinstance(answer, ApplyOrder):
            order_id, model = answer.order.order_id, answer.order.event.subject
        else:
            log.error("an answer could not be written; the others continue", exc_info=error)
            return None
        log.error("an order could not be answered; the others continue", order=order_id, model=model, exc_info=error)
        final = isinstance(known, Permanent) or waited_s.get(order_id, 0.0) >= self._limits.order_deadline_s
        if not final:
            return None
        if isinstance(answer, AnnounceStaged):
            return FailLease(answer.lease, known.code, known.reason)
        if await self._moved_traffic(order_id, model):
            return None
        return RefuseOrder(answer.order, known.code, known.reason)

    async def _moved_traffic(self, order_id: str, model: str) -> bool:
        """Return whether an order made the last edit of the route; True if the route is unreadable."""
        listing = await self._routes.all()
        route = listing.routes.get(model)
        made_route = route is not None and route.last_edit_id == order_id
        return order_id in self._edited or made_route or model in listing.unreadable

    async def move(self, move: Move) -> None:
        """Replace the endpoints of a target in its route, and publish the change."""
        # Attached servers are given by address already.
        endpoints = tuple(self._engines[name].endpoint if name in self._engines else name for name in move.endpoints)
        edit = await self._routes.edit(
            move.model,
            lambda route: move_target(route, move.target, endpoints, epoch=move.epoch, cause_id=move.cause_id),
        )
        structlog.get_logger().warning(
            "a target is served by other endpoints",
            target=str(move.target),
            endpoints=move.endpoints,
            edit=str(edit)[:200],
        )
        if not isinstance(edit, EditRefused):
            await self.publish_move(edit.route)

    async def publish_move(self, route: Route) -> None:
        """Publish the route after a move, at most once."""
        now, cause_id = self._clock.now(), route.cause_id
        changed = DeploymentChanged(route=route, cause="restore", at=now)
        entry = outbox_entry(
            changed, model=route.model, cause_id=None, id=cause_id, correlation_id=cause_id, decided_at=now
        )
        await self._write(lambda record: staging.note_move(record, route.model, cause_id), entry)

    async def publish_verdict(self, verdict: SuspensionJudged) -> None:
        """Publish that a suspended target fails to load, at most once per suspension."""
        model, verdict_id = verdict.target.model, f"unloadable-{verdict.target}-{verdict.since.isoformat()}"
        now = self._clock.now()
        entry = outbox_entry(
            verdict, model=model, id=verdict_id, cause_id=None, correlation_id=verdict_id, decided_at=now
        )
        await self._write(lambda record: staging.note_verdict(record, verdict_id), entry)

    async def change_alert(self, change: AlertChange) -> None:
        """Raise or resolve an alert in the record, and publish it."""
        alert = change.alert
        about = PlainAlert(alert.alert_id, alert.kind, SEVERITY[alert.kind], alert.target, alert.raised_at)
        entry = about.entry(change.kind, change.message, self._clock.now())
        edit = staging.open_alert if change.kind == "raised" else staging.close_alert
        await self._write(lambda record: edit(record, alert), entry)

    async def _write(self, edit: Callable[[Servers], Servers], entry: OutboxEntry) -> None:
        """Edit the record and put a fact into its outbox; neither if the edit changes nothing."""
        await self._state.write(lambda record: staging.publish_if_changed(record, edit(record), entry))

    async def _fail_lease(self, answer: FailLease) -> None:
        event = answer.lease.event
        failed = VariantFailed(
            variant=event.data.candidate.target.variant,
            step="stage",
            code=answer.code,
            reason=answer.reason,
            details=dict(answer.details),
            purpose=event.data.purpose,
        )
        lease_id = answer.lease.lease_id
        await self._write(lambda record: staging.drop_lease(record, lease_id), self._entry(failed, event))

    async def _announce(self, answer: AnnounceStaged) -> None:
        event = answer.lease.event
        request = event.data
        staged = VariantStaged(
            lease_id=answer.lease.lease_id,
            candidate=await self._served(request.candidate),
            baseline=await self._served(request.baseline),
            request=request,
            load_s=answer.load_s,
        )
        lease_id = answer.lease.lease_id
        await self._write(lambda record: staging.mark_staged(record, lease_id), self._entry(staged, event))

    async def _refuse(self, event: Event[Any], code: Code, reason: str) -> None:
        refused = PromotionRefused(target=event.data.target.target, code=code, reason=reason)
        await self._write(lambda record: staging.drop_order(record, event.id), self._entry(refused, event))

    async def _apply(self, answer: ApplyOrder) -> None:
        """Edit the route, then remove the order and publish the route; after a crash in between, only publish.

        If the release has ended, nothing is edited. If it ends just before the edit, the order stays in the record, so
        that `decide_outlived` ends the canary or shadow.
        """
        event = answer.order.event
        request = event.data
        ordered_so = {"pair_ratio": request.pair_ratio, "copies": request.copies}
        served = (await self._served(request.target)).model_copy(update=ordered_so)
        fallback = await self._served(request.fallback) if request.fallback is not None else None

        def change(route: Route) -> Edit:
            return promote(
                route,
                _keep_endpoints(route, served),
                weight_ratio=request.weight_ratio,
                epoch=request.epoch,
                cause_id=event.id,
                fallback=fallback,
                shadow_ratio=request.shadow_ratio,
                only_for=request.only_for,
            )

        if not await self._is_current(answer.order):
            return
        edit = await self._routes.edit(event.subject, change)
        if isinstance(edit, EditRefused):
            await self._refuse(event, edit.code, edit.reason)
            return
        self._edited.add(event.id)
        cause = edit.cause if isinstance(edit, Changed) else _ordered(request)
        changed = DeploymentChanged(route=edit.route, cause=cause, at=self._clock.now())
        is_trial = has_trial(edit.route, request.target.target)

        def settle(record: Servers) -> Servers:
            is_void = is_trial and staging.ended_at(record, request.release_id) is not None
            return record if is_void else staging.drop_order(record, event.id)

        await self._write(settle, self._entry(changed, event))
        self._edited.discard(event.id)

    async def _is_current(self, order: TrafficOrder) -> bool:
        """Return whether an order is unanswered, and its release is open or ended after the order's edit."""
        record, event = await self._state.read(), order.event
        if all(known.order_id != order.order_id for known in record.orders):
            return False
        has_ended = staging.ended_at(record, event.data.release_id) is not None
        return not has_ended or await self._moved_traffic(order.order_id, event.subject)

    async def _end_trial(self, answer: EndTrial) -> None:
        """End the canary or shadow that an order of an ended release began; remove the order, publish the route."""
        event = answer.order.event
        target = event.data.target.target
        edit = await self._routes.edit(
            event.subject,
            lambda route: end_trial(route, target, order_id=answer.order.order_id, cause_id=answer.cause_id),
        )
        structlog.get_logger().warning(
            "a canary or a shadow began as its release ended, and is ended", target=str(target), edit=str(edit)[:200]
        )
        if isinstance(edit, EditRefused):
            return
        changed = DeploymentChanged(route=edit.route, cause="abort", at=self._clock.now())
        await self._write(lambda record: staging.drop_order(record, event.id), self._entry(changed, event))

    async def _served(self, deployable: Deployable) -> ServedTarget:
        description = await self._artifacts.describe(deployable)
        missing = why_no_runtime(deployable.serving, self._limits.runtimes)
        if missing is not None and deployable.target.model not in self._limits.attached:
            raise Permanent("runtime_unknown", missing)
        held = self._held().get(str(deployable.target))
        engine = self._engines[held.endpoint if held is not None else home_of(deployable, self._homes())]
        return ServedTarget(
            target=deployable.target,
            manifest=deployable.manifest,
            weights_bytes=deployable.weights_bytes,
            serving=deployable.serving,
            runtime=(held.ran_by if held is not None else None) or engine.runtime,
            endpoints=engine.addresses(str(deployable.target)),
            chat_template=description.chat_template,
            bos_token=description.bos_token,
            eos_token=description.eos_token,
            context_tokens=engine.context_tokens(str(deployable.target)) or description.context_tokens,
        )

    def _entry(self, fact: Fact, event: Event[Any]) -> OutboxEntry:
        """Return the outbox entry that answers an event; its id derives from the event, so a repeat is a duplicate."""
        return outbox_entry(
            fact,
            model=event.subject,
            cause_id=event.id,
            correlation_id=event.correlationid,
            environment=event.environment,
            decided_at=self._clock.now(),
        )


def _keep_endpoints(route: Route, served: ServedTarget) -> ServedTarget:
    """Return a target with its endpoints in the route, if they include the endpoint of the order."""
    known = next((candidate for candidate in production_of(route) if candidate.target == served.target), None)
    if known is None or served.endpoints[0] not in known.endpoints:
        return served
    return served.model_copy(update={"endpoints": known.endpoints})


def _ordered(request: TrafficRequested) -> Literal["shadow", "canary", "promote"]:
    """Return the kind of change that a traffic order requests."""
    if request.weight_ratio == 0.0:
        return "shadow"
    return "canary" if request.weight_ratio < 1.0 else "promote"
