"""Rollbacks that administrators order at this gateway while it cannot reach the bus: performed, kept, reported.

The file is what counts, for all workers and after a restart: a rollback is in it before it is answered, and stays
until the rollback-controller has answered and the order has expired.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import structlog
from pydantic import ValidationError

from contracts.codes import Code
from contracts.facts import RollbackReported
from contracts.gateway_rollbacks import GatewayRollback, PerformedRollback, RollbackAnswer, SignedGatewayRollback
from contracts.routes import Route
from decisions.gateway_rollbacks import Void, apply_order, assess_times, overridden
from services.gateway.adapters.record_file import RecordFile
from services.gateway.ports import Pause, RollbackLog
from services.gateway.route_table import RouteTable
from shared.errors import Transient
from shared.provenance.administrators import Administrators, NotTrusted
from shared.runtime.clock import Clock

MOST_WAITING = 100
"""Most rollbacks that wait for an answer of the rollback-controller."""
RESERVE_BYTES = 2 * 2**20
"""Space on the disk that is kept for them: an order is saved before it is answered, and the disk may be full then."""
REPORT_AGAIN_S = 60.0
"""Time after which a report without an answer is published again: the bus may have lost it."""
_FOLLOW_S = 0.2
_REPORT_S = 1.0
_KEPT = timedelta(minutes=30)
"""How long an order is kept after it has expired and was answered."""


@dataclass(frozen=True)
class Performed:
    """What an order led to.

    Attributes:
        order: The order.
        before: The route that was served before it.
        after: The route that is served now; with `plan_only`, that would be.
        outcome: `planned`, or what the rollback-controller has answered so far.
    """

    order: GatewayRollback
    before: Route
    after: Route
    outcome: str


@dataclass(frozen=True)
class Refused:
    """Why an order changes nothing."""

    code: Code | Literal["bus_available"]
    reason: str


class PerformedRollbacks:
    """Performs, keeps and reports rollbacks that were ordered at this gateway."""

    def __init__(
        self,
        table: RouteTable,
        file: RecordFile[PerformedRollback],
        log: RollbackLog,
        administrators: Administrators,
        clock: Clock,
    ) -> None:
        """Serve what was performed before."""
        self._table, self._file, self._log = table, file, log
        self._administrators, self._clock = administrators, clock
        self._seen = (-1, -1)
        self._reported: dict[str, float] = {}
        self._known: dict[str, PerformedRollback] = {}
        self.refresh()

    def refresh(self) -> None:
        """Serve what the file holds, if it has changed: another worker may have performed a rollback."""
        version = self._file.version
        if version != self._seen:
            self._seen = version
            self._take(self._file.load())

    def open(self, signed: SignedGatewayRollback) -> GatewayRollback | Refused:
        """Return an order that an administrator signed, whether it counts or not; else why it is not trusted."""
        order = self._administrators.open(signed)
        return Refused(order.code, order.reason) if isinstance(order, NotTrusted) else order

    async def perform(self, signed: SignedGatewayRollback) -> Performed | Refused:
        """Perform an order, once: the same order again is answered, and changes nothing.

        An order that plans only is answered also while the bus is connected.
        """
        order = self.open(signed)
        if isinstance(order, Refused):
            return order
        now = self._clock.now()
        void = assess_times(order, now)
        if void is not None:
            return Refused(void.code, void.reason)
        asks_bus = not order.plan_only and not order.read_only_bus and order.order_id not in self._known
        if asks_bus and await self._log.answers(order.model):
            reason = (
                f"The bus answers: use `slipway rollback {order.model}`, which all gateways follow. If the bus does "
                "not take that order, because its disk is full, add --read-only-bus."
            )
            return Refused("bus_available", reason)
        performed = await asyncio.to_thread(self._perform, signed, order, now)
        self.refresh()
        return performed

    def _perform(self, signed: SignedGatewayRollback, order: GatewayRollback, now: datetime) -> Performed | Refused:
        """Save an order that is performed, with the time for which it was found valid."""
        with self._file.locked():
            records = self._file.load()
            done = decide(records, self._table.known(order.model), signed, order)
            if isinstance(done, Refused) or order.plan_only or order.order_id in records:
                return done
            records = _without_old(records, now)
            records[order.order_id] = PerformedRollback(order=signed, performed_at=now)
            try:
                self._file.save(records)
            except OSError as error:
                return Refused("disk_full", f"The rollback could not be saved, so it was not performed: {error}.")
        structlog.get_logger().warning(
            "rolled back without the bus",
            model=order.model,
            failed=str(order.failed),
            administrator=order.administrator,
            reason=order.reason,
            order_id=order.order_id,
        )
        return done

    async def follow(self, pause: Pause) -> None:
        """Serve what other workers performed, for ever."""
        while True:
            self.refresh()
            await pause(_FOLLOW_S)

    async def report(self, pause: Pause) -> None:
        """Publish what was performed as soon as the bus is back, and note the answers, for ever.

        Those of one model go one after the other: a later one follows from what an earlier one made of the route.
        """
        while True:
            waiting = {order_id: record for order_id, record in self._known.items() if record.outcome == "waiting"}
            for orders in _orders(waiting).values():
                try:
                    for order in orders:
                        if not await self._report(order, waiting[order.order_id]):
                            break
                except (Transient, OSError) as error:
                    structlog.get_logger().warning("a rollback is reported later", error=repr(error))
            await pause(_REPORT_S)

    async def _report(self, order: GatewayRollback, record: PerformedRollback) -> bool:
        """Return whether the next one of the model may be reported: this one is answered, or was reported before."""
        order_id = order.order_id
        if not self._log.connected:
            return False
        answer = await self._log.find_answer(record.order.digest)
        if answer is not None and answer.order_digest == record.order.digest:
            await asyncio.to_thread(self._note, order_id, answer)
            self.refresh()
            return True
        now_s, is_first = self._clock.monotonic(), order_id not in self._reported
        if now_s - self._reported.get(order_id, -REPORT_AGAIN_S) < REPORT_AGAIN_S:
            return False
        report = RollbackReported(order=record.order, performed_at=record.performed_at)
        await self._log.report(report, model=order.model, order_id=order_id)
        self._reported[order_id] = now_s
        return not is_first

    def _note(self, order_id: str, answer: RollbackAnswer) -> None:
        with self._file.locked():
            records = self._file.load()
            record = records.get(order_id)
            if record is None or record.outcome != "waiting":
                return
            update = {"outcome": answer.outcome, "code": answer.code, "reason": answer.reason}
            records[order_id] = record.model_copy(update=update)
            self._file.save(records)
        structlog.get_logger().info("the bus has the rollback", order_id=order_id, **update)

    def _take(self, records: dict[str, PerformedRollback]) -> None:
        self._known = records
        self._table.override(_orders(records))


def decide(
    records: Mapping[str, PerformedRollback],
    known: Route | None,
    signed: SignedGatewayRollback,
    order: GatewayRollback,
) -> Performed | Refused:
    """Return what an order leads to, after all that was performed before. Pure.

    Args:
        records: what was performed, by the order's id.
        known: the model's route as the bus had it; None if there is none.
        signed: the order as it came.
        order: what it says.
    """
    if known is None:
        return Refused("not_in_traffic", f"This gateway has no route of {order.model}.")
    before = overridden(known, _orders(records).get(order.model, ()))
    earlier = records.get(order.order_id)
    if earlier is not None:
        same = earlier.order == signed
        reused = Refused("malformed_event", f"The id {order.order_id} is that of another order.")
        return Performed(order, before, before, earlier.outcome) if same else reused
    refused = _refuse(records, order, unconfirmed=before != known)
    if refused is not None:
        return refused
    if order.plan_only:
        order = _complete(order, before)
    after = apply_order(before, order)
    if isinstance(after, Void):
        return Refused(after.code, after.reason)
    return Performed(order, before, after, "planned" if order.plan_only else "waiting")


def _refuse(records: Mapping[str, PerformedRollback], order: GatewayRollback, *, unconfirmed: bool) -> Refused | None:
    """Return why an order is refused whatever it would change; None if it is not."""
    if order.failed is None and unconfirmed:
        reason = f"{order.model} was rolled back here a while ago; name the target that is to go with --target."
        return Refused("not_in_traffic", reason)
    if not order.plan_only and sum(record.outcome == "waiting" for record in records.values()) >= MOST_WAITING:
        return Refused("too_many_rollbacks", f"{MOST_WAITING} rollbacks wait for the bus here, which is the limit.")
    return None


def _without_old(records: Mapping[str, PerformedRollback], now: datetime) -> dict[str, PerformedRollback]:
    return {
        order_id: record
        for order_id, record in records.items()
        if record.outcome == "waiting" or now - record.performed_at < _KEPT
    }


def _orders(records: Mapping[str, PerformedRollback]) -> dict[str, list[GatewayRollback]]:
    """Return the orders that may count, by model; those that were applied count until the bus's route shows it."""
    orders: dict[str, list[GatewayRollback]] = {}
    for record in records.values():
        if record.outcome == "refused":
            continue
        try:
            order = GatewayRollback.model_validate_json(record.order.payload)
        except ValidationError as error:
            structlog.get_logger().error("a saved rollback cannot be read", error=repr(error))
            continue
        orders.setdefault(order.model, []).append(order)
    return orders


def _complete(order: GatewayRollback, route: Route) -> GatewayRollback:
    """Return a question with the active target and the epoch of a route where it names none."""
    active = route.active.target if route.active is not None else None
    epoch = route.epoch if order.epoch is None else order.epoch
    return order.model_copy(update={"failed": order.failed or active, "epoch": epoch})
