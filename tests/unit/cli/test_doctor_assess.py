"""What each fact about a machine means for a stack that runs on it."""

import math
from dataclasses import replace

import pytest

from clients.cli.doctor.assess import (
    ENGINE_PYTHONS,
    GIB,
    MAIN_PYTHONS,
    MIB,
    Cpu,
    Memory,
    Numbers,
    Packages,
    Platform,
    Ports,
    Space,
    advise_python,
    assess_cores,
    assess_cpu,
    assess_disk,
    assess_engine_numbers,
    assess_memory,
    assess_numbers,
    assess_packages,
    assess_platform,
    assess_ports,
    assess_programs,
    assess_python,
    assess_sandbox,
    assess_shared_memory,
)
from clients.cli.doctor.findings import as_line
from shared.runtime.sandbox import Protection
from tests.kit.wiring import ROOT

SERVER = Cpu("AMD EPYC", frozenset({"avx2", "avx512f", "avx512_bf16"}), cores=2)
SMALL = {"weights_bytes": 270 * MIB, "engine": "slipway"}


@pytest.mark.parametrize(
    ("system", "machine", "state"),
    [("Linux", "x86_64", "ok"), ("Linux", "aarch64", "failure"), ("Darwin", "x86_64", "failure")],
)
def test_linux_on_x86_64_is_needed(system, machine, state):
    assert assess_platform(Platform(system, machine)).state == state


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


def test_a_cpu_without_bfloat16_is_slow_and_one_without_avx2_too_old():
    assert assess_cpu(replace(SERVER, flags=frozenset({"avx2", "avx512f"}))).state == "warning"
    assert assess_cpu(replace(SERVER, flags=frozenset({"sse4_2"}))).state == "failure"


def test_a_limit_of_instruction_sets_is_only_a_warning_because_some_need_it():
    assert assess_cpu(replace(SERVER, onednn_limit="AVX2")).state == "warning"


def test_one_core_is_slow():
    assert [assess_cores(cores).state for cores in (1, 2, 64)] == ["warning", "ok", "ok"]


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


def test_too_few_ports_fail():
    assert assess_ports(Ports(needed=18, free=3, taken={})).state == "failure"
    assert assess_ports(Ports(needed=18, free=18, taken={})).state == "ok"


def test_findings_name_what_there_is_and_what_to_do(snapshot):
    wrong = (
        ("transformers", "5.10.0", "==5.17.0"),
        ("torch", "", ">=2.13"),
        *((f"p{n}", "1", "==2") for n in range(5)),
    )
    whole = Protection("yes", "yes", "yes", "yes", "yes")
    findings = [
        assess_platform(Platform("Darwin", "arm64")),
        assess_python("python", (3, 8), MAIN_PYTHONS, advice="install another"),
        assess_cpu(SERVER),
        assess_cpu(replace(SERVER, flags=SERVER.flags | {"amx_bf16"})),
        assess_cpu(replace(SERVER, onednn_limit="AVX2")),
        assess_disk(Space(".state", GIB)),
        assess_ports(Ports(needed=18, free=18, taken={"gateway": 12001})),
        assess_packages("packages", Packages(160, wrong)),
        assess_packages("packages", Packages(160)),
        assess_programs("programs", []),
        assess_programs("programs", ["weed"]),
        assess_engine_numbers({"bfloat16": 0.016, "int8": 0.3}),
        assess_sandbox(whole),
        assess_sandbox(replace(whole, landlock="the kernel has no Landlock")),
    ]
    assert "\n".join(as_line(finding, 14) for finding in findings) == snapshot


def test_an_installation_without_pins_is_not_compared():
    assert assess_packages("packages", Packages(0)).state == "skipped"


def test_numbers_near_float64_are_well_and_others_are_not():
    good = Numbers(float32=4e-9, bfloat16=1.1e-4, processor="AVX512_CORE_BF16")
    assert assess_numbers(good).state == "ok"
    assert assess_numbers(replace(good, bfloat16=None)).state == "ok"
    assert assess_numbers(replace(good, bfloat16=0.0498)).state == "failure"
    assert assess_numbers(replace(good, float32=0.0498)).state == "failure"
    assert assess_numbers(replace(good, float32=math.nan)).state == "failure"


@pytest.mark.parametrize(
    ("bfloat16", "int8", "state"),
    [
        (0.016, 0.06, "ok"),
        (0.3, 0.06, "failure"),
        (0.016, 0.3, "failure"),
        (math.nan, 0.06, "failure"),
        (0.016, math.nan, "failure"),
    ],
)
def test_an_engine_that_computes_otherwise_in_one_precision_fails(bfloat16, int8, state):
    assert assess_engine_numbers({"bfloat16": bfloat16, "int8": int8}).state == state
