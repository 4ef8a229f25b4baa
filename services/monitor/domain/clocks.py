"""Whose clock is wrong: a gateway's, the monitor's own, or the message bus's. Pure."""

from datetime import datetime, timedelta

from decisions.clocks import TOLERANCE_S, is_wrong
from decisions.evidence.alerts import Finding, drop_alerts
from services.monitor.domain.record import GatewayClock, MonitorState

BATCHES = 3
"""So many batches in a row make an alert: a single one may have waited for the bus."""
SILENT = timedelta(minutes=5)
FORGOTTEN = timedelta(hours=1)
GATEWAYS_KEPT = 256
_HOLD_S = 60.0


def note_clock(state: MonitorState, gateway: str, offset: float, now: datetime) -> MonitorState:
    """Return the record with the latest clock offset of a gateway.

    Other gateways are removed unless their alert is open: those silent for over an hour, and the oldest beyond
    `GATEWAYS_KEPT`.
    """
    known = state.clocks.get(gateway)
    wrong = (known.wrong if known else 0) + 1 if is_wrong(offset) else 0
    clocks = {**state.clocks, gateway: GatewayClock(offset_s=offset, wrong=wrong, last_at=now)}
    silent = [name for name, clock in clocks.items() if now - clock.last_at > FORGOTTEN and name != gateway]
    oldest = sorted((name for name in clocks if name != gateway), key=lambda name: clocks[name].last_at)
    surplus = oldest[: max(0, len(clocks) - GATEWAYS_KEPT)]
    alerted = {key.partition("/")[2] for key, alert in state.alerts.items() if alert.open}
    gone = {name for name in (*silent, *surplus) if _key(name) not in alerted}
    if gone:
        keys = {_key(name) for name in gone}
        alerts = drop_alerts(state.alerts, lambda key, _: key.partition("/")[2] in keys)
        state = state.model_copy(update={"alerts": alerts})
    return state.model_copy(update={"clocks": {name: clock for name, clock in clocks.items() if name not in gone}})


def find_wrong_clocks(state: MonitorState, own_offset: float, now: datetime) -> tuple[Finding, ...]:
    """Return the current verdict on the clocks.

    All are compared with the bus's. Where the monitor and every gateway differ from it by the same, it is the bus's
    that is wrong. Where no gateway was heard of late, it could be either's: none is named until one is heard.

    Args:
        state: The record.
        own_offset: By how many seconds the monitor's own clock is ahead of the bus's.
        now: The time by the bus's clock.
    """
    present = {name: clock for name, clock in state.clocks.items() if now - clock.last_at <= SILENT}
    own_is_wrong = is_wrong(own_offset)
    same = own_is_wrong and bool(present) and all(not is_wrong(item.offset_s - own_offset) for item in present.values())
    own = own_is_wrong and not same
    findings = [
        _finding("bus", "the message bus", -own_offset, "that of the gateways and of the monitor", wrong=same),
        _finding(
            "monitor", "the monitor", own_offset, "that of the message bus", wrong=own and bool(present), calm=not own
        ),
    ]
    for name, clock in state.clocks.items():
        wrong = name in present and clock.wrong >= BATCHES and not same
        calm = not is_wrong(clock.offset_s) or name not in present or same
        findings.append(
            _finding(name, f"gateway {name}", clock.offset_s, "that of the message bus", wrong=wrong, calm=calm)
        )
    return tuple(findings)


def _finding(name: str, whose: str, offset: float, beside: str, *, wrong: bool, calm: bool | None = None) -> Finding:
    if is_wrong(offset):
        side = "ahead of" if offset > 0 else "behind"
        message = f"The clock of {whose} is {abs(offset):.0f} s {side} {beside}; {TOLERANCE_S:g} s are allowed."
    else:
        message = f"The clock of {whose} agrees with {beside}, or nothing comes from there any more."
    return Finding(
        key=_key(name),
        kind="clock",
        severity="warning",
        trigger=None,
        fired=wrong,
        calm=not wrong if calm is None else calm,
        hold_s=_HOLD_S,
        message=message,
        value=round(offset, 1),
        limit=TOLERANCE_S,
    )


def _key(name: str) -> str:
    return f"clock-{name}"
