"""What the doctor makes of the limits of a bus."""

from dataclasses import astuple

import pytest

from clients.cli.doctor.assess import GIB
from clients.cli.doctor.space import assess_bus, assess_consumers


@pytest.mark.parametrize(
    ("taken", "allowed", "state"),
    [
        ({"A": (4 * GIB, 8 * GIB), "B": (0, 8 * GIB)}, 16 * GIB, "ok"),
        ({"A": (4 * GIB, 8 * GIB), "B": (0, 8 * GIB)}, 16 * GIB - 1, "failure"),
        ({"A": (4 * GIB, 8 * GIB), "KV_routes": (0, -1), "OTHER": (0, -1)}, None, "warning"),
        ({"A": (9 * GIB, 10 * GIB), "B": (8 * GIB, 9 * GIB)}, None, "warning"),
    ],
)
def test_a_server_lets_streams_grow_to_their_limits_and_none_is_near_its_own(taken, allowed, state, snapshot):
    finding = assess_bus(taken, allowed, "nats://bus")
    assert (finding.check, finding.state) == ("bus disk", state)
    assert "\t".join(astuple(finding)) == snapshot


@pytest.mark.parametrize(("count", "state"), [(0, "ok"), (799, "ok"), (800, "warning"), (1000, "failure")])
def test_a_stream_near_its_limit_of_consumers_is_named_with_what_to_do(count, state):
    finding = assess_consumers({"KV_routes": (3, 1000), "SLIPWAY_EVENTS": (count, 1000)})
    assert (finding.check, finding.state) == ("bus consumers", state)
    assert state == "ok" or f"SLIPWAY_EVENTS has {count} of 1000" in finding.detail


def test_a_bus_without_streams_has_room_for_consumers():
    assert assess_consumers({}).state == "ok"
