"""What the doctor makes of the disks under bus and store."""

from dataclasses import replace
from typing import get_args

import pytest

from clients.cli.doctor.space import (
    GIB,
    MACHINE_COPIES,
    OF_16_BITS,
    STORE_COPIES,
    BusSpace,
    assess_bus,
    assess_store,
    plan_bus,
)
from contracts.vocabulary import Variant
from deploy.local import bus as servers
from deploy.local.state import StateFolder, new_description
from shared.messaging import topology


def bus(**more):
    return BusSpace(**{"limit": 16 * GIB, "used": 4 * GIB, "file_store": 16 * GIB, "free": 12 * GIB, **more})


def test_a_disk_with_what_the_streams_may_still_take_needs_nothing():
    finding = assess_bus(bus(), ".state")
    assert (finding.state, finding.detail) == (
        "ok",
        "streams and buckets may take 16.0 GiB, 4.0 GiB taken; 12.0 GiB free for .state",
    )


def test_one_with_less_is_a_warning_that_names_what_to_free():
    finding = assess_bus(bus(free=12 * GIB - 1), ".state")
    assert (finding.check, finding.state) == ("bus disk", "warning")
    assert finding.advice.startswith("keep 12.0 GiB free for them, or give .state a disk of its own; while it is full,")


def test_a_server_that_allows_less_than_the_limits_is_a_failure_with_the_number_to_set():
    finding = assess_bus(bus(file_store=16 * GIB - 1), ".state")
    assert finding.state == "failure"
    assert f"to {16 * GIB} bytes or more" in finding.advice
    assert "the server allows 16.0 GiB" in finding.detail


def test_three_servers_on_one_disk_need_it_three_times():
    finding = assess_bus(bus(servers=3, free=36 * GIB - 1), ".state")
    assert finding.state == "warning"
    assert finding.detail.startswith("streams and buckets may take 16.0 GiB on each of 3 servers, 4.0 GiB taken; ")
    assert finding.advice.startswith("keep 36.0 GiB free for them")
    assert assess_bus(bus(servers=3, free=36 * GIB), ".state").state == "ok"


def test_streams_without_a_limit_are_named():
    finding = assess_bus(bus(unlimited=("KV_routes", "OTHER")), ".state")
    assert (finding.state, finding.detail) == ("warning", ".state: without a limit of size: KV_routes, OTHER")


@pytest.mark.parametrize(("used", "left"), [(4 * GIB, "12.0"), (17 * GIB, "0.0")])
def test_elsewhere_the_finding_says_that_the_disk_is_not_seen_and_what_it_needs(used, left):
    finding = assess_bus(bus(free=None, used=used), "tls://bus:4222")
    assert finding.state == "ok"
    assert finding.detail.endswith(f"its disk is not seen from here, and needs {left} GiB free")


def test_a_store_holds_another_release_of_the_largest_model_or_says_what_that_needs():
    weights, need = {"small": GIB, "large": 2 * GIB}, int((STORE_COPIES + MACHINE_COPIES) * 2 * GIB)
    assert assess_store(weights, need, ".state").state == "ok"
    finding = assess_store(weights, need - 1, ".state")
    assert (finding.check, finding.state) == ("store disk", "warning")
    assert finding.detail == "a release of large needs up to 11.0 GiB; 11.0 GiB free for .state"
    assert finding.advice.startswith("free 11.0 GiB, or remove what no release refers to (`slipway gc --dry-run`)")
    elsewhere = assess_store(weights, None, "store:443")
    assert (elsewhere.state, elsewhere.detail) == (
        "ok",
        "a release of large needs up to 5.0 GiB of store:443, whose disk is not seen from here",
    )
    assert assess_store({}, 0, ".state").state == "skipped"


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


def test_the_16_bit_weights_of_each_variant_are_known():
    assert set(OF_16_BITS) == set(get_args(Variant))
