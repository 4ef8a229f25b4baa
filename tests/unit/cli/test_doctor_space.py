"""What the doctor makes of the disk under the bus."""

from dataclasses import replace

import pytest

from clients.cli.doctor.assess import GIB
from clients.cli.doctor.findings import as_line
from clients.cli.doctor.space import (
    BusSpace,
    assess_bus,
    assess_consumers,
    plan_bus,
)
from deploy.local import bus as servers
from deploy.local.state import StateFolder, new_description
from shared.messaging import topology


def bus(**more):
    return BusSpace(**{"limit": 16 * GIB, "used": 4 * GIB, "file_store": 16 * GIB, "free": 12 * GIB, **more})


@pytest.mark.parametrize(
    ("space", "state"),
    [
        ({}, "ok"),
        ({"free": 12 * GIB - 1}, "warning"),
        ({"file_store": 16 * GIB - 1}, "failure"),
        ({"servers": 3, "free": 36 * GIB - 1}, "warning"),
        ({"servers": 3, "free": 36 * GIB}, "ok"),
        ({"unlimited": ("KV_routes", "OTHER")}, "warning"),
        ({"free": None}, "ok"),
        ({"free": None, "used": 17 * GIB}, "ok"),
    ],
)
def test_a_disk_holds_what_the_streams_may_still_take_on_each_server(space, state, snapshot):
    finding = assess_bus(bus(**space), ".state")
    assert (finding.check, finding.state) == ("bus disk", state)
    assert as_line(finding, 8) == snapshot


def test_before_a_stack_runs_its_declared_limits_count_less_what_is_there(tmp_path):
    folder = StateFolder(tmp_path / "state")
    empty = plan_bus(folder).detail
    assert empty.startswith(f"streams and buckets may take {topology.file_bytes() / GIB:.1f} GiB, 0.0 GiB taken; ")
    assert not folder.path.exists()
    data = folder.path / "nats" / "jetstream"
    data.mkdir(parents=True)
    with (data / "1.blk").open("wb") as file:
        file.truncate(3 * GIB)
    assert "3.0 GiB taken" in plan_bus(folder).detail


def test_three_servers_that_do_not_run_each_have_taken_a_third(tmp_path):
    folder = StateFolder(tmp_path / "state")
    folder.create()
    folder.write_description(replace(new_description(), ports=dict.fromkeys(servers.port_names(3), 1)))
    for name in servers.server_names(3):
        (folder.path / name).mkdir()
        with (folder.path / name / "1.blk").open("wb") as file:
            file.truncate(2 * GIB)
    assert " GiB on each of 3 servers, 2.0 GiB taken; " in plan_bus(folder).detail


@pytest.mark.parametrize(("count", "state"), [(0, "ok"), (799, "ok"), (800, "warning"), (1000, "failure")])
def test_a_stream_near_its_limit_of_consumers_is_named_with_what_to_do(count, state):
    finding = assess_consumers({"KV_routes": (3, 1000), "SLIPWAY_EVENTS": (count, 1000)})
    assert (finding.check, finding.state) == ("bus consumers", state)
    assert state == "ok" or f"SLIPWAY_EVENTS has {count} of 1000" in finding.detail


def test_a_bus_without_streams_has_room_for_consumers():
    assert assess_consumers({}).state == "ok"
