"""Precisions that the fleet's hardware cannot serve: refused before anything is loaded, with what to do."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.facts import VariantFailed
from contracts.vocabulary import ServingSettings
from services.server_manager.adapters import hardware
from services.server_manager.adapters.hardware import parse_gpus
from services.server_manager.app import refuse_variants
from services.server_manager.domain import staging
from services.server_manager.domain.answer_types import FailLease, GrantLease, RefuseOrder
from services.server_manager.domain.decide import decide_answers
from services.server_manager.domain.records import Servers
from services.server_manager.domain.servable_variants import Hardware
from services.server_manager.settings import ServerManagerSettings
from tests.kit import fakes_registry
from tests.unit.server_manager.factories import LIMITS, START, route, stage_requested, traffic_requested

ADA = Hardware((8, 9), "NVIDIA L4")


def decide(record, hardware):
    return decide_answers(record, {}, {}, replace(LIMITS, hardware=hardware), START, waited_s={})


def test_a_staging_order_is_refused_at_once_and_granted_where_the_hardware_can():
    record = staging.enqueue_staging(Servers(), stage_requested("s1", variant="fp8"))
    (failed,) = decide(record, Hardware())
    assert isinstance(failed, FailLease)
    assert (failed.code, "compute capability 8.9" in failed.reason) == ("variant_not_servable", True)
    assert decide(record, ADA) == [GrantLease("s1")]


def test_it_is_refused_while_another_order_holds_the_lease():
    record = staging.enqueue_staging(Servers(), stage_requested("s1"))
    record = staging.enqueue_staging(staging.grant_lease(record, "s1"), stage_requested("s2", 2, variant="fp8"))
    assert [answer.code for answer in decide(record, Hardware())] == ["variant_not_servable"]


def test_a_traffic_order_is_refused_at_once():
    record = staging.enqueue_order(Servers(), traffic_requested("t1", 2, variant="fp8"), START)
    (refused,) = decide(record, Hardware())
    assert isinstance(refused, RefuseOrder)
    assert refused.code == "variant_not_servable"
    assert decide(record, ADA) == []  # it waits for its target to be loaded


@pytest.mark.parametrize("active", [None, 1])
def test_a_first_order_is_refused_where_the_runtime_of_its_fallback_is_not_and_a_later_one_needs_no_fallback(active):
    event = traffic_requested("t1", 2, epoch=1, fallback=0)
    gone = event.data.fallback.model_copy(update={"serving": ServingSettings(runtime="gone")})
    event = event.model_copy(update={"data": event.data.model_copy(update={"fallback": gone})})
    record = staging.enqueue_order(Servers(), event, START)
    answers = decide_answers(record, {"bot": route(active)}, {}, LIMITS, START, waited_s={})
    assert [answer.code for answer in answers] == ([] if active else ["runtime_unknown"])


def test_an_opened_release_learns_it_before_anything_is_made():
    opened = fakes_registry.opened(variants=("int8", "fp8"))
    (emit,) = refuse_variants(opened, Hardware(name="AMD EPYC"), {"default"})
    assert isinstance(emit.fact, VariantFailed)
    assert (emit.fact.variant, emit.fact.step, emit.fact.code, emit.key) == (
        "fp8",
        "stage",
        "variant_not_servable",
        "fp8",
    )
    assert "AMD EPYC" in emit.fact.reason
    assert refuse_variants(opened, ADA, {"default"}) == []


def test_gpus_are_read_as_the_driver_lists_them():
    listed = "NVIDIA H100 80GB HBM3, 9.0\nNVIDIA A10, 8.6\nNVIDIA-SMI has failed\n[N/A], [N/A]\n"
    assert parse_gpus(listed) == [Hardware((9, 0), "NVIDIA H100 80GB HBM3"), Hardware((8, 6), "NVIDIA A10")]
    assert parse_gpus("") == []


def test_declared_hardware_counts_and_an_invalid_one_keeps_the_service_from_starting():
    assert ServerManagerSettings(hardware="cuda:8.9").hardware == "cuda:8.9"
    with pytest.raises(ValidationError, match="write cpu, or cuda"):
        ServerManagerSettings(hardware="gpu")


def test_more_shards_than_devices_are_refused_before_anything_is_made_and_when_files_set_them():
    two = replace(ADA, devices=2)
    opened = fakes_registry.opened(variants=("int8", "bf16"), serving=ServingSettings(tensor_parallel_size=4))
    emits = refuse_variants(opened, two, {"default"})
    facts: list[Any] = [emit.fact for emit in emits]
    assert [(fact.variant, fact.code) for fact in facts] == [
        ("int8", "variant_not_servable"),
        ("bf16", "variant_not_servable"),
    ]
    assert facts[0].reason == (
        "tensor_parallel_size is 4, but the serving fleet has 2 GPUs (NVIDIA L4 (compute capability 8.9)). "
        "Publish with at most 2, or serve from a machine with more."
    )
    assert (
        refuse_variants(opened, replace(ADA, devices=4), {"default"}) == refuse_variants(opened, ADA, {"default"}) == []
    )
    event = stage_requested("s1")
    candidate = event.data.candidate.model_copy(update={"serving": ServingSettings(tensor_parallel_size=4)})
    event = event.model_copy(update={"data": event.data.model_copy(update={"candidate": candidate})})
    (failed,) = decide(staging.enqueue_staging(Servers(), event), two)
    assert failed.code == "variant_not_servable"


async def test_the_driver_says_how_many_devices_there_are(tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nprintf 'NVIDIA H100, 9.0\\nNVIDIA A10, 8.6\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setattr(hardware, "QUERY", (str(driver),))
    assert await hardware.detect_hardware() == Hardware((8, 6), "NVIDIA A10", devices=2)
