"""What the doctor makes of the limits of a bus."""

import pytest

from clients.cli.doctor.assess import GIB
from clients.cli.doctor.findings import as_line
from clients.cli.doctor.space import assess_bus, assess_consumers


@pytest.mark.parametrize(
    ("limits", "used", "allowed", "state"),
    [
        ({"A": 8 * GIB, "B": 8 * GIB}, 4 * GIB, 16 * GIB, "ok"),
        ({"A": 8 * GIB, "B": 8 * GIB}, 17 * GIB, None, "ok"),
        ({"A": 8 * GIB, "B": 8 * GIB}, 4 * GIB, 16 * GIB - 1, "failure"),
        ({"A": 8 * GIB, "KV_routes": -1, "OTHER": -1}, 4 * GIB, None, "warning"),
    ],
)
def test_a_server_lets_streams_grow_to_their_limits(limits, used, allowed, state, snapshot):
    finding = assess_bus(limits, used, allowed, "nats://bus")
    assert (finding.check, finding.state) == ("bus disk", state)
    assert as_line(finding, 8) == snapshot


@pytest.mark.parametrize(("count", "state"), [(0, "ok"), (799, "ok"), (800, "warning"), (1000, "failure")])
def test_a_stream_near_its_limit_of_consumers_is_named_with_what_to_do(count, state):
    finding = assess_consumers({"KV_routes": (3, 1000), "SLIPWAY_EVENTS": (count, 1000)})
    assert (finding.check, finding.state) == ("bus consumers", state)
    assert state == "ok" or f"SLIPWAY_EVENTS has {count} of 1000" in finding.detail


def test_a_bus_without_streams_has_room_for_consumers():
    assert assess_consumers({}).state == "ok"
