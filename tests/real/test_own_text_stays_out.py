"""A checkpoint's own evaluation set is measured and forgotten: manifests keep the packaged text's tokens only."""

import json

import pytest

from contracts.facts import Quality, QuantiseSettings
from contracts.manifests import VariantManifest
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.ports import QuantisationResult
from testbed.models import tiny_base
from tests.real.quantising import order, quantise_here

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::UserWarning")]
SECRET = "The patient in bed seven was given quinine at dawn; nobody else may ever read this sentence again. "


def runs(ids, length=12):
    return {tuple(ids[at : at + length]) for at in range(len(ids) - length + 1)}


def test_tokens_of_an_own_evaluation_set_enter_no_manifest(tmp_path):
    from transformers import AutoTokenizer

    merged = tiny_base(tmp_path / "merged")
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(json.dumps({"text": f"{number}. {SECRET * 12}"}) for number in range(60)))
    job = order(merged, tmp_path, variant="bf16", settings=QuantiseSettings(calibration_samples=0))
    made = quantise_here(job.model_copy(update={"evaluation": own, "output": merged}))
    assert made.evaluation_quality is not None, "the own set was measured"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    packaged = runs(tokenizer("\n\n".join(packaged_split().held_out), add_special_tokens=False)["input_ids"])
    secret = runs(tokenizer(SECRET * 3, add_special_tokens=False)["input_ids"])
    assert made.held_out
    for window in made.held_out:
        assert runs(window.token_ids) <= packaged
        assert not runs(window.token_ids) & secret
    assert "quinine" not in made.model_dump_json()


def test_nothing_else_of_a_manifest_could_hold_them():
    assert {field.annotation for field in Quality.model_fields.values()} <= {int, float, float | None}
    for holder, expected in ((QuantisationResult, ["held_out"]), (VariantManifest, [])):
        holding = [name for name, field in holder.model_fields.items() if "HeldOutWindow" in str(field.annotation)]
        assert holding == expected
