"""Which precision the hardware of a fleet can serve, and what a refusal says."""

from typing import get_args

import pytest

from contracts.precisions import PRECISIONS
from contracts.vocabulary import Variant
from services.server_manager.domain.servable_variants import Hardware, parse_hardware, weakest, why_not_servable

CPU = Hardware(name="AMD EPYC")
AMPERE, ADA, HOPPER = (Hardware(capability, "a card") for capability in ((8, 6), (8, 9), (9, 0)))


def servable(hardware):
    return {variant for variant in get_args(Variant) if why_not_servable(variant, hardware) is None}


def test_the_table_has_every_precision():
    assert set(PRECISIONS) == set(get_args(Variant))


def test_a_cpu_and_a_gpu_before_ada_serve_everything_but_fp8():
    assert servable(CPU) == servable(AMPERE) == set(get_args(Variant)) - {"fp8"}


@pytest.mark.parametrize("hardware", [ADA, HOPPER, Hardware((12, 0))])
def test_from_ada_on_a_gpu_serves_everything(hardware):
    assert servable(hardware) == set(get_args(Variant))


def test_a_gpu_without_bfloat16_serves_nothing():
    assert servable(Hardware((7, 5), "Tesla T4")) == set()
    assert "or request" not in why_not_servable("int8", Hardware((7, 5), "Tesla T4"))


def test_a_refusal_names_the_hardware_and_what_to_do():
    assert why_not_servable("fp8", CPU) == (
        "The serving fleet has a CPU (AMD EPYC); fp8 needs a GPU with compute capability 8.9 or higher. Serve it from such "
        "a machine, or request bf16, int8, gptq-int4, awq-int4."
    )
    assert "has a card (compute capability 8.6);" in why_not_servable("fp8", AMPERE)


def test_hardware_is_declared_as_text():
    assert parse_hardware("cpu") == Hardware()
    assert parse_hardware("cuda:8.9").capability == (8, 9)
    assert parse_hardware("cuda:12.0").capability == (12, 0)


@pytest.mark.parametrize("text", ["", "gpu", "cuda", "cuda:9", "cuda:9.0 ", "CPU", "cuda:8.9.1"])
def test_other_text_is_refused_with_the_form(text):
    with pytest.raises(ValueError, match="write cpu, or cuda"):
        parse_hardware(text)


def test_every_target_must_run_on_the_weakest_gpu():
    assert weakest([HOPPER, AMPERE, ADA]) == AMPERE
    assert weakest([]) is None
