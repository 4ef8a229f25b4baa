"""What each fact about a machine means for a stack that runs on it."""

from dataclasses import astuple, replace
from pathlib import Path

import pytest

from clients.cli.doctor.assess import (
    GIB,
    MIB,
    assess_disk,
    assess_memory,
    assess_programs,
    assess_sandbox,
    assess_shared_memory,
)
from shared.runtime.sandbox import Protection

SMALL = {"weights_bytes": 270 * MIB, "engine": "slipway"}


@pytest.mark.parametrize(
    ("total_gib", "available_gib", "state"),
    [(4, 3, "failure"), (8, 7, "failure"), (10, 9, "warning"), (16, 12, "ok"), (16, 4, "failure")],
)
def test_memory_is_for_a_model_beside_the_one_that_serves(total_gib, available_gib, state):
    assert assess_memory(total_gib * GIB, available_gib * GIB, **SMALL).state == state


def test_the_toy_engine_needs_little_memory():
    assert assess_memory(4 * GIB, 3 * GIB, weights_bytes=0, engine="toy").state == "ok"


@pytest.mark.parametrize(("gib", "state"), [(0.1, "failure"), (1.9, "failure"), (3, "warning"), (100, "ok")])
def test_a_full_disk_fails_and_a_small_one_warns(gib, state):
    assert assess_disk(round(gib * GIB), ".state").state == state


@pytest.mark.parametrize(("mib", "state"), [(1, "failure"), (64, "warning"), (1024, "ok")])
def test_shared_memory_of_a_container_may_be_small(mib, state):
    assert assess_shared_memory(mib * MIB, Path("/dev/shm")).state == state


def test_findings_name_what_there_is_and_what_to_do(snapshot):
    whole = Protection("yes", "yes", "yes", "yes", "yes")
    findings = [
        assess_disk(GIB, ".state"),
        assess_programs([]),
        assess_programs(["weed"]),
        assess_sandbox(whole),
        assess_sandbox(replace(whole, landlock="the kernel has no Landlock")),
    ]
    assert "\n".join("\t".join(astuple(finding)) for finding in findings) == snapshot
