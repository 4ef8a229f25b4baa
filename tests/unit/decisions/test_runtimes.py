"""Which runtime serves a version, and what is said of one that a fleet does not have."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.runtimes import DEFAULT_RUNTIME, FleetRuntimes
from contracts.vocabulary import Runtime, ServingSettings
from decisions.serving.runtimes import SILENT, listed_fleet, runtime_name, why_no_runtime

NEXT = ServingSettings(runtime="next")


def test_a_version_without_a_runtime_is_served_by_the_default_one():
    assert runtime_name(None) == runtime_name(ServingSettings()) == DEFAULT_RUNTIME
    assert runtime_name(NEXT) == "next"


def test_a_runtime_that_the_fleet_lacks_is_named_with_those_that_it_has():
    assert why_no_runtime(NEXT, {DEFAULT_RUNTIME, "next"}) is None
    assert why_no_runtime(None, {DEFAULT_RUNTIME}) is None
    reason = why_no_runtime(NEXT, {"other", DEFAULT_RUNTIME})
    assert reason == (
        "The serving fleet has no runtime next; it has default, other. Publish with one of them, or add next to it."
    )


def test_a_runtime_is_one_line():
    digest = "sha256:" + "a" * 64
    runtime = Runtime(engine="vllm", engine_version="1.2", server_version="2.51.0", environment_digest=digest)
    assert str(runtime) == f"vllm 1.2, triton 2.51.0, {digest}"
    assert str(Runtime(engine="toy", engine_version="1")) == "toy 1"


NOW = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.mark.parametrize(
    ("renewed_at", "is_current"),
    [
        (None, False),
        (NOW - SILENT, False),
        (NOW - SILENT + timedelta(seconds=1), True),
        (NOW + timedelta(minutes=5), True),  # of a bus whose clock is ahead
    ],
)
def test_a_fleet_is_current_while_its_lease_is_renewed(renewed_at, is_current):
    fleet = listed_fleet("main", FleetRuntimes(), renewed_at, NOW)
    assert (fleet.is_current, fleet.reported_at) == (is_current, None if is_current else renewed_at)
