"""What each fact about a machine means for a stack that runs on it."""

from dataclasses import replace

import pytest

from clients.cli.doctor.assess import (
    ENGINE_PYTHONS,
    GIB,
    MAIN_PYTHONS,
    MIB,
    Memory,
    Space,
    advise_python,
    assess_disk,
    assess_memory,
    assess_programs,
    assess_python,
    assess_sandbox,
    assess_shared_memory,
)
from clients.cli.doctor.findings import as_line
from shared.runtime.sandbox import Protection
from tests.kit.wiring import ROOT

SMALL = {"weights_bytes": 270 * MIB, "engine": "slipway"}


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 14)])
def test_a_python_that_is_not_supported_fails_and_the_advice_stands_behind_it(version):
    finding = assess_python("python", version, MAIN_PYTHONS, advice="install another")
    assert (finding.state, finding.advice) == ("failure", "install another")


@pytest.mark.parametrize("version", MAIN_PYTHONS)
def test_each_supported_python_is_well(version):
    assert assess_python("python", version, MAIN_PYTHONS, advice="").state == "ok"


@pytest.mark.parametrize(
    ("supported", "names"), [(MAIN_PYTHONS, "Python 3.11, 3.12 or 3.13,"), (ENGINE_PYTHONS, "Python 3.11 or 3.12,")]
)
def test_the_advice_names_the_versions_that_set_up_takes_and_the_one_that_it_downloads(supported, names):
    assert names in advise_python(supported)
    script = (ROOT / "deploy/setup/environment.sh").read_text()
    assert f"versions='{' '.join(f'{major}.{minor}' for major, minor in supported)}'" in script
    assert "\ndownload=3.11 " in script
    assert advise_python(supported).endswith("or downloads 3.11")


def test_an_engine_without_interpreter_fails():
    assert assess_python("engine python", None, ENGINE_PYTHONS, advice="make setup").state == "failure"


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
        assess_python("python", (3, 8), MAIN_PYTHONS, advice="install another"),
        assess_disk(Space(".state", GIB)),
        assess_programs("programs", []),
        assess_programs("programs", ["weed"]),
        assess_sandbox(whole),
        assess_sandbox(replace(whole, landlock="the kernel has no Landlock")),
    ]
    assert "\n".join(as_line(finding, 14) for finding in findings) == snapshot
