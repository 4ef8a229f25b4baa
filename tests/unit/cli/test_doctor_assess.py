"""What each fact about a machine means for a stack that runs on it."""

from dataclasses import replace

import pytest

from clients.cli.doctor.assess import (
    GIB,
    MIB,
    Memory,
    Space,
    assess_disk,
    assess_memory,
    assess_programs,
    assess_sandbox,
    assess_shared_memory,
)
from clients.cli.doctor.findings import as_line
from shared.runtime.sandbox import Protection

SMALL = {"weights_bytes": 270 * MIB, "engine": "slipway"}


@pytest.mark.parametrize(
    ("total_gib", "available_gib", "state"),
    [(4, 3, "failure"), (8, 7, "failure"), (10, 9, "warning"), (16, 12, "ok"), (16, 4, "failure")],
)
def test_memory_is_for_a_model_beside_the_one_that_serves(total_gib, available_gib, state):
    memory = Memory(total_gib * GIB, available_gib * GIB)
    assert assess_memory(memory, **SMALL).state == state


def test_the_toy_engine_needs_little_memory():
    memory = Memory(4 * GIB, 3 * GIB)
    assert assess_memory(memory, weights_bytes=0, engine="toy").state == "ok"


@pytest.mark.parametrize(("gib", "state"), [(0.1, "failure"), (1.9, "failure"), (3, "warning"), (100, "ok")])
def test_a_full_disk_fails_and_a_small_one_warns(gib, state):
    assert assess_disk(Space(".state", round(gib * GIB))).state == state


@pytest.mark.parametrize(("mib", "state"), [(1, "failure"), (64, "warning"), (1024, "ok")])
def test_shared_memory_of_a_container_may_be_small(mib, state):
    assert assess_shared_memory(Space("/dev/shm", mib * MIB)).state == state


def test_findings_name_what_there_is_and_what_to_do(snapshot):
    whole = Protection("yes", "yes", "yes", "yes", "yes")
    findings = [
        assess_disk(Space(".state", GIB)),
        assess_programs("programs", []),
        assess_programs("programs", ["weed"]),
        assess_sandbox(whole),
        assess_sandbox(replace(whole, landlock="the kernel has no Landlock")),
    ]
    assert "\n".join(as_line(finding, 14) for finding in findings) == snapshot
