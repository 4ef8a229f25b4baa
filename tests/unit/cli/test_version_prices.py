"""What keeping a version loaded costs, by the memory that it reserves on each endpoint."""

import pytest

from clients.cli.releases.version_prices import describe_prices, hourly_price, price_per_hour
from clients.cli.releases.version_records import Version
from contracts import facts as f
from contracts.runtimes import FleetRuntime, RunningTarget
from testbed import factories
from tests.kit.histories import manifest

GB = 10**9


def version(*prices):
    benchmark = factories.fact(f.VariantBenchmarked)
    benchmarks = tuple(benchmark.model_copy(update={"machine_price_per_hour": price}) for price in prices)
    return Version(manifest(version=3), "sha256:" + "a" * 64, benchmarks=benchmarks)


def endpoint(number, reserved, budget, name="a"):
    target = factories.target(number)
    running = RunningTarget(target=target, phase="ready", memory_bytes=reserved)
    return FleetRuntime(
        name="default", endpoint=f"{name}:1", answers=True, targets=(running,), memory_budget_bytes=budget
    )


def test_memory_is_its_share_of_each_machine():
    two = [endpoint(3, 6 * GB, 24 * GB), endpoint(3, 6 * GB, 12 * GB, "b"), endpoint(2, 6 * GB, 24 * GB, "c")]
    assert hourly_price(two, version(), 2.4) == pytest.approx(0.6 + 1.2)
    assert hourly_price(two[2:], version(), 2.4) is None
    assert hourly_price([endpoint(3, 6 * GB, 0)], version(), 2.4) is None


def test_the_price_is_that_of_the_dearest_machine_that_measured_it():
    assert price_per_hour(version(None, 2.4, 1.2)) == 2.4
    assert price_per_hour(version(None)) is None
    assert price_per_hour(version()) is None


def test_what_is_not_known_is_left_out():
    assert describe_prices(2.4, 0.25, None).endswith("cost 0.25")
    assert describe_prices(2.4, None, 0.6).endswith("0.6 an hour")
