"""Rows for windows of drift."""

from services.monitor.domain.record import MonitorState
from tests.unit.monitor import factories as m

ROWS = 50


def full(first: int, second: int, rules) -> MonitorState:
    """Return a state in which the windows of two versions are full: the active one's, and that of the one before it."""
    state = m.take(m.routed(active=first), [m.record(5.0, version=first) for _ in range(ROWS)], 6.0, rules)
    state = m.routed(active=second, canary=first, epoch=13, of=state)
    return m.take(state, [m.record(7.0, version=second) for _ in range(ROWS)], 8.0, rules)
