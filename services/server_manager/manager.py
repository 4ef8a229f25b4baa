"""The reconcile loop: each pass reads the state, decides and acts; an event only starts the next pass earlier."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from contracts.routes import Route
from contracts.runtimes import FleetRuntimes
from contracts.vocabulary import Deployable, Target
from services.server_manager.adapters.kv_state import KvLeadership
from services.server_manager.answers import Answers
from services.server_manager.attached_models import AttachedModels
from services.server_manager.background import BackgroundPublisher, TrafficProofs, renewing
from services.server_manager.domain.alerts import assess_standby, find_unloadable, note_failures, plan_alerts
from services.server_manager.domain.answer_types import Answer, ApplyOrder, GrantLease
from services.server_manager.domain.decide import decide_answers
from services.server_manager.domain.drains import add_addresses
from services.server_manager.domain.kept import plan_kept, plan_temporary
from services.server_manager.domain.moves import find_removable, find_unpublished, plan_moves
from services.server_manager.domain.progress import assess_progress
from services.server_manager.domain.reconcile import (
    Copies,
    Desired,
    Key,
    Limits,
    plan_alone,
    plan_desired,
    plan_reconcile,
)
from services.server_manager.domain.records import Servers
from services.server_manager.domain.runtimes import (
    as_loaded,
    find_silent,
    find_undecided,
    may_begin,
    on_endpoints,
)
from services.server_manager.drains import Drains
from services.server_manager.executor import Executor
from services.server_manager.fleet_state import FleetState
from services.server_manager.indexes import Indexes
from services.server_manager.measured_memory import MeasuredMemory
from services.server_manager.placement import Placement
from services.server_manager.ports import (
    Artifacts,
    Engines,
    Extent,
    LeaseLost,
    ReportProgress,
    RouteListing,
    Routes,
    RuntimesView,
)
from services.server_manager.waits import Waits
from shared.errors import translate
from shared.runtime.clock import Clock

PUBLISH_WAIT_S = 1.0
"""Maximum seconds that a pass waits for the publication of its facts."""


class Manager:
    """Reconciles a fleet's engines with the desired state, and answers orders."""

    def __init__(
        self,
        *,
        engines: Engines,
        attached: AttachedModels,
        artifacts: Artifacts,
        state: FleetState,
        routes: Routes,
        lead: KvLeadership,
        view: RuntimesView,
        report_progress: ReportProgress,
        clock: Clock,
        limits: Limits,
        tick_s: float = 1.0,
    ) -> None:
        self._measured = MeasuredMemory()
        limits = replace(limits, measured=self._measured)
        self._engines = engines
        self._attached = attached
        self._artifacts = artifacts
        self._state = state
        self._routes = routes
        self._lead = lead
        self._view = view
        self._desired: dict[str, Desired] | None = None
        self._report_progress = report_progress
        self._clock = clock
        self._limits = limits
        self._tick_s = tick_s
        self._wake = asyncio.Event()
        self._log = structlog.get_logger()
        self._disarmed: dict[str, float] = {}
        self._failed_before: dict[tuple[Target, datetime], int] = {}
        self._waits = Waits(clock)
        self._publisher = BackgroundPublisher(state)
        self._proofs = TrafficProofs(artifacts, self.wake)
        self.executor = Executor(engines, artifacts, clock, limits, lead, on_change=self.wake)
        self._placement = Placement(engines, self.executor, limits)
        self._drains = Drains(self.executor, self._placement, state=state, clock=clock, limits=limits)
        self._indexes = Indexes(engines, clock, self._measured.noting(self.executor.note_index))
        self._answers = Answers(
            engines=engines,
            artifacts=artifacts,
            state=state,
            routes=routes,
            clock=clock,
            limits=limits,
            held=self.executor.held,
            homes=lambda: self._placement.homes,
        )

    def wake(self) -> None:
        """Start the next pass without waiting for the tick."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile until cancelled: on every wake, and at least every `tick_s`."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.run_pass()
                except LeaseLost as error:
                    self._log.warning("reconcile postponed", why=str(error))
                except Exception as error:  # noqa: BLE001 - level-triggered: the next pass reads all state again
                    if (known := translate(error)) is not None:
                        self._log.warning("reconcile postponed", code=known.code, reason=known.reason)
                    else:
                        self._log.exception("reconcile failed")
                await self._rest()
        finally:
            self._proofs.keep_only(())
            await self._indexes.stop()
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
        """Run one pass: write due answers, start due actions.

        Without the bus, only the last desired targets are kept alive, unless another process took the engines over.
        No action starts on an engine before it has listed its models.
        """
        try:
            leads = await self._lead.hold()
        except Exception:
            if self._lead.superseded():
                await self._stand_back()
            elif self._desired is not None:
                self._begin_alone(self._desired, await self._indexes.ask() & self.executor.known)
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
        answering = await self._indexes.ask()
        down = self._indexes.down(answering)
        await self._answer_orders(down)
        self._publisher.publish_soon()
        record, listing = await self._state.read(), await self._routes.all()
        usable = answering & self.executor.known
        if record.endpoint_orders:
            await self._check_lease()
            await self._drains.answer_orders(record, listing.routes, answering)
            record = await self._state.read()
        self._placement.use_survivors(record, usable, down, listing.routes)
        routes = await self._move(record, listing, usable, down)
        await self._check_lease()
        # Before healing: an alert about a quickly healed target must be raised, too.
        await self._alert(record, listing, usable, frozenset(down))
        self._publisher.publish_soon()
        self._desired = desired = plan_desired(routes, record)
        homes = self._placement.choose_homes(record, routes, down)
        if self.executor.known:
            known = on_endpoints(desired, self.executor.known, homes)
            temporary = plan_temporary(record, routes, known, self.executor.held(), self._indexes.listed)
            if temporary != record.temporary:
                # Before loading: after a crash in between, the target would never be unloaded.
                await self._state.write(lambda record: record.model_copy(update={"temporary": temporary}))
            kept = plan_kept(routes, listing.unreadable, temporary, self.executor.held())
            transfers = self._drains.plan(record, routes, usable, kept, down)
            self._begin(desired, kept, usable, routes, transfers)
        for cause, progress in assess_progress(record, self.executor.held(), down, homes, self._attached.lacks):
            await self._report_progress(cause, progress)
        await self._check_lease()
        await self._publish_view(answering, record, routes)

    async def _remove_copies(self) -> None:
        """Remove local artifacts of targets that are neither desired nor held, while no action runs."""
        if self._desired is None or self.executor.known < self._engines.keys() or self.executor.busy:
            return
        kept = {target.deployable.manifest.digest for target in self._desired.values()}
        try:
            await self._artifacts.keep_only(kept | {target.digest for target in self.executor.held().values()})
        except OSError as error:
            self._log.warning("local copies could not be removed", error=repr(error))

    async def _stand_back(self) -> None:
        """Drop all state and cancel all actions, because another process leads."""
        self._desired, self._disarmed = None, {}
        self._placement.forget()
        self._drains.forget()
        self._waits.note(())
        self._proofs.keep_only(())
        await self._indexes.stop()
        await self.executor.stop()

    async def _check_lease(self) -> None:
        """Raise LeaseLost if the lease is not valid and cannot be renewed."""
        if not self._lead.valid() and await self._lead.confirm() is not Extent.ALL:
            raise LeaseLost("the lease was not renewed in time; the next pass starts again")

    async def _answer_orders(self, down: Mapping[str, float]) -> None:
        record, listing = await self._state.read(), await self._routes.all()
        await self._attached.follow(listing.routes)
        self._measured.take(record)
        waited_s = self._note_waits(record)
        self._proofs.keep_only({order.order_id for order in record.orders})
        for due in decide_answers(
            record,
            listing.routes,
            self.executor.held(),
            self._limits,
            self._clock.now(),
            waited_s=waited_s,
            unreadable=listing.unreadable,
            down=down,
            homes=self._placement.choose_homes(record, listing.routes, down),
            intact_homes=self._placement.intact_homes,
            copies=self.executor.copies(),
            lacks=self._attached.lacks,
        ):
            answer = self._verified(due, listing.routes)
            if answer is None:
                continue
            await self._check_lease()
            try:
                await self._answers.carry_out(answer)
            except Exception as error:  # noqa: BLE001 - `settle_failure` raises errors that concern all orders
                refusal = await self._answers.settle_failure(answer, error, waited_s)
                if refusal is not None:
                    await self._check_lease()
                    await self._answers.carry_out(refusal)
                continue
            if isinstance(answer, GrantLease):
                self._waits.begin(answer.lease_id)
            self.wake()

    def _verified(self, answer: Answer, routes: Mapping[str, Route]) -> Answer | None:
        """Return the answer to carry out; None while the target of a traffic order is being verified.

        An order that already edited the route needs no verification.
        """
        if not isinstance(answer, ApplyOrder):
            return answer
        route = routes.get(answer.order.event.subject)
        has_moved = route is not None and route.last_edit_id == answer.order.order_id
        return answer if has_moved else self._proofs.assess(answer)

    def _note_waits(self, record: Servers) -> Mapping[str, float]:
        ids = {order.order_id for order in record.orders}
        return self._waits.note(ids if record.lease is None else ids | {record.lease.lease_id})

    async def _move(
        self, record: Servers, listing: RouteListing, usable: frozenset[str], down: Mapping[str, float]
    ) -> Mapping[str, Route]:
        """Update the endpoints in routes to where targets generate; return the resulting routes."""
        self.executor.use_named(self._placement.named(listing.routes), self._indexes.listing)
        routes = {model: route for model, route in listing.routes.items() if model not in listing.unreadable}
        for route in find_unpublished(routes, record.answered):
            await self._check_lease()
            await self._answers.publish_move(route)
        attached = self._attached.names.values()
        addresses = {name: engine.endpoint for name, engine in self._engines.items() if name not in attached}
        removed = set(record.addresses) - set(addresses.values())
        self._drains.note_removed(routes, removed)
        moves = plan_moves(
            routes,
            self.executor.held(),
            addresses,
            self._limits,
            transferred=self._drains.transferred(usable),
            removed=removed,
            copy_homes=self._placement.choose_copies(record, routes, down),
            ready=self._placement.ready(usable),
            attached=self._attached.addresses,
        )
        for move in moves:
            await self._check_lease()
            await self._answers.move(move)
        return (await self._routes.all()).routes if moves else listing.routes

    def _begin(
        self,
        desired: dict[str, Desired],
        kept: frozenset[str],
        usable: frozenset[str],
        routes: Mapping[str, Route],
        transfers: Mapping[Key, Deployable],
    ) -> None:
        """Start due actions on usable engines; plans include all engines, so that their memory stays reserved."""
        held, homes, named = self.executor.held(), self._placement.homes, self._placement.named(routes)
        fixed = kept | {name for name, target in held.items() if target.endpoint not in usable}
        there = {name: target for name, target in desired.items() if not self._attached.lacks(target.deployable)}
        served = on_endpoints(there, self._engines.keys(), homes)
        planned = {(endpoint, name) for name, endpoints in self._placement.copies.items() for endpoint in endpoints}
        due = {**transfers, **self._placement.due(routes)}
        removable = find_removable(self.executor.copies(), held, named, usable, kept) - planned - transfers.keys()
        removable -= {(home, name) for name, home in homes.items()}
        self.executor.note_needed({*desired, *kept}, removable)
        self.executor.drop_failed(due)
        copies = Copies(self.executor.others(), due, planned | self._drains.loaded, removable)
        for action in plan_reconcile(served, held, self._limits, fixed, homes=homes, copies=copies):
            if may_begin(action, held, usable):
                self.executor.start(action)

    def _begin_alone(self, desired: dict[str, Desired], usable: frozenset[str]) -> None:
        held, homes = self.executor.held(), self._placement.homes
        for action in plan_alone(on_endpoints(desired, usable, homes), held, self._limits, homes):
            if may_begin(action, held, usable):
                self.executor.start(action)

    # -- what others see --------------------------------------------------------------------------------------------

    async def _alert(
        self, record: Servers, listing: RouteListing, usable: frozenset[str], down: frozenset[str]
    ) -> None:
        """Raise and resolve alerts, and publish verdicts on suspended targets that fail to load."""
        now, held = self._clock.monotonic(), self.executor.held()
        undecided = find_undecided(listing.routes, self._engines.keys() - usable - down, self._placement.homes)
        routes = {model: route for model, route in listing.routes.items() if model not in undecided}
        silent = find_silent(routes, self._limits, down, self._placement.homes, self._attached.addresses)
        disarmed = assess_standby(routes, held, silent)
        since = {model: at for model, at in self._disarmed.items() if model in undecided}
        self._disarmed = since | {model: self._disarmed.get(model, now) for model in disarmed}
        for change in plan_alerts(
            record,
            routes,
            held,
            unreadable=listing.unreadable | undecided,
            silent=silent,
            grace_s=self._limits.standby_grace_s,
            now=self._clock.now(),
            disarmed_s={model: now - since for model, since in self._disarmed.items()},
        ):
            await self._answers.change_alert(change)
        self._failed_before = note_failures(self._failed_before, routes, held)
        for verdict in find_unloadable(routes, held, silent, self._failed_before):
            await self._answers.publish_verdict(verdict)

    async def _publish_view(self, answering: frozenset[str], record: Servers, routes: Mapping[str, Route]) -> None:
        held = self.executor.held()
        view: dict[str, Any] = {
            "memory_budget_bytes": self._limits.memory_budget_bytes,
            "addresses": add_addresses(record, [self._engines[name].endpoint for name in self._limits.endpoints]),
        }
        if self.executor.known:
            view["measured"] = self._measured.to_record()
            view["copies"] = self._placement.describe(routes, answering)
            view["loaded"] = tuple(filter(None, (as_loaded(name, target) for name, target in sorted(held.items()))))
        await self._state.write(lambda record: record.model_copy(update=view))
        tritons = {name: self._engines[name] for name in self._limits.endpoints}
        endpoints = self._drains.describe_endpoints(tritons, record, routes, answering, self._indexes.fenced)
        await self._view.write(FleetRuntimes(runtimes=(*endpoints, *self._attached.describe(held, self._clock.now()))))
