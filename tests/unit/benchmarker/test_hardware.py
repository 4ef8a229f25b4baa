"""The fingerprint: the same on equal hardware, different on other, readable by a person."""

import dataclasses

import pytest

from services.benchmarker.adapters.hardware import parse_cpu, parse_gpu, parse_memory_bytes, read_hardware
from services.benchmarker.domain.hardware import Hardware

BOX = Hardware(cpu="Fast CPU", cores=8, memory_bytes=24 * 1024**3, gpus=("H100", "A10", "H100"))


def test_a_person_can_read_it():
    assert BOX.fingerprint() == "Fast CPU, 8 cores, 24 GiB, 1 x A10, 2 x H100"
    assert dataclasses.replace(BOX, gpus=()).fingerprint().endswith("no GPU")


@pytest.mark.parametrize("change", [{"cpu": "Slow"}, {"cores": 4}, {"memory_bytes": 2**36}, {"gpus": ()}])
def test_other_hardware_has_another_one(change):
    assert dataclasses.replace(BOX, **change).fingerprint() != BOX.fingerprint()


def test_a_few_megabytes_that_the_kernel_keeps_change_nothing():
    less = dataclasses.replace(BOX, memory_bytes=BOX.memory_bytes - 200 * 1024**2)
    assert less.fingerprint() == BOX.fingerprint()


def test_a_declared_fleet_speaks_for_itself():
    assert dataclasses.replace(BOX, declared="fleet a").fingerprint() == "fleet a"
    assert dataclasses.replace(BOX, declared="fleet a").to_data()["fingerprint"] == "fleet a"


def test_the_kernels_files_are_understood():
    assert parse_cpu("processor\t: 0\nmodel name\t: AMD  EPYC 7B13\nflags\t: fpu\n") == "AMD EPYC 7B13"
    assert parse_cpu("processor\t: 0\nFeatures\t: fp\n") == ""
    assert parse_memory_bytes("MemTotal:       24605172 kB\nMemFree: 1 kB\n") == 24605172 * 1024
    assert parse_memory_bytes("") == 0
    assert parse_gpu("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   12\n") == "NVIDIA H100 80GB HBM3"
    assert parse_gpu("") == "unknown GPU"


def test_devices_are_found_where_the_driver_lists_them(tmp_path):
    for bus, model in (("0000:01", "L4"), ("0000:02", "L4")):
        folder = tmp_path / "driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: {model}\n")
    hardware = read_hardware(proc=tmp_path)
    assert hardware.gpus == ("L4", "L4")
    assert hardware.cpu


def test_this_machine_describes_itself_the_same_way_twice():
    assert read_hardware() == read_hardware()
    assert read_hardware().cores >= 1
    assert read_hardware().memory_bytes > 0
