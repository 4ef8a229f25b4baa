"""INT8 of SmolLM2-135M-Instruct within the quality that the design promises, and every precision served by vLLM."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contracts.facts import CALIBRATION_DEFAULTS, QuantiseSettings
from services.quantiser.adapters.engine import WorkerEngine
from services.quantiser.domain import QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.ports import QuantisationJob
from testbed.models import tiny_base

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.filterwarnings("ignore::UserWarning")]
ROOT = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
SERVE = """
import gc, json, locale, sys
locale.setlocale(locale.LC_ALL, "C.UTF-8")
from vllm import LLM, SamplingParams

def open_model(folder):
    return LLM(folder, dtype="bfloat16", enforce_eager=True, max_model_len=512)

if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    model = open_model(order["chat"])
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    answer = model.chat(question, SamplingParams(temperature=0.0, max_tokens=8))[0].outputs[0].text
    found = []
    for folder in order["folders"]:
        del model
        gc.collect()
        model = open_model(folder)
        prompt = {"prompt_token_ids": order["ids"]}
        out = model.generate(prompt, SamplingParams(max_tokens=1, prompt_logprobs=0))[0]
        found.append([one[token].logprob for token, one in zip(order["ids"][1:], out.prompt_logprobs[1:])])
    print("FOUND:" + json.dumps({"answer": answer, "logprobs": found}))
"""


def make_int8(smollm2, folder, settings, defaults):
    """Make the variant in a child; return its folder, what was measured, and the steps reported."""
    config = json.loads((smollm2 / "config.json").read_text())
    plan = plan_quantisation("int8", read_shape(config, "bfloat16"), settings, defaults)
    order = QuantisationJob(plan=plan, merged=smollm2, output=folder / "output")
    steps = []
    child = WorkerEngine(log_path=folder / "work.log", threads=None, memory_limit_bytes=None, timeout_s=900)
    made = asyncio.run(child.quantise(order, lambda *step: steps.append(step)))
    print(made, size_of_weights(order.output) / size_of_weights(smollm2))
    return order.output, made, steps


@pytest.fixture(scope="module")
def int8(smollm2, tmp_path_factory):
    """INT8 by rounding alone: the real model through the whole child in seconds, measured on three windows."""
    settings, defaults = QuantiseSettings(calibration_samples=0), QuantiserDefaults(held_out_windows=3)
    return make_int8(smollm2, tmp_path_factory.mktemp("int8"), settings, defaults)


def size_of_weights(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.timeout(600)
def test_int8_by_rounding_alone_is_within_five_percent_of_the_merged_model(smollm2, int8):
    output, made, steps = int8
    assert made.quality.tokens == 3 * 511
    assert made.quality.perplexity_ratio < 1.05
    assert made.quality.mean_kl < 0.05
    assert made.quality.p99_kl < 0.25
    assert made.quality.top1_agreement_ratio > 0.88
    assert size_of_weights(output) / size_of_weights(smollm2) < 0.62
    assert made.peak_rss_bytes < 4_000_000_000
    assert [done for step, done, *_ in steps if step == "quantise"] == [0, 30], "rounding is one step of 30 layers"


@pytest.mark.timeout(900)
def test_int8_is_within_two_percent_of_the_merged_model(smollm2, tmp_path):
    output, made, steps = make_int8(smollm2, tmp_path, CALIBRATION_DEFAULTS["int8"], QuantiserDefaults())
    assert made.quality.tokens == 8 * 511
    assert made.quality.perplexity_ratio < 1.02
    assert made.quality.mean_kl < 0.02
    assert made.quality.p99_kl < 0.15
    assert made.quality.top1_agreement_ratio > 0.92
    assert size_of_weights(output) / size_of_weights(smollm2) < 0.62
    assert made.peak_rss_bytes < 4_000_000_000
    assert [done for step, done, *_ in steps if step == "quantise"] == list(range(31))


@pytest.fixture(scope="module")
def tiny_variants(tmp_path_factory):
    """A tiny model in 16 bit, in both INT4 precisions and in FP8, as (folder, engine) by variant."""
    from services.quantiser.adapters import quantise_worker

    place = tmp_path_factory.mktemp("tiny")
    merged = tiny_base(place / "merged", hidden=128)
    shape = read_shape(json.loads((merged / "config.json").read_text()), "bfloat16")
    defaults = QuantiserDefaults(held_out_windows=2, held_out_tokens=128, min_calibration_tokens=128)
    variants = {"bf16": (merged, "pass-through")}
    for variant in ("gptq-int4", "awq-int4"):
        plan = plan_quantisation(
            variant, shape, QuantiseSettings(calibration_samples=4, calibration_tokens=64), defaults
        )
        quantise_worker.quantise(QuantisationJob(plan=plan, merged=merged, output=place / variant))
        variants[variant] = (place / variant, plan.engine)
    plan = plan_quantisation("fp8", shape, QuantiseSettings(calibration_samples=0), defaults)
    made = quantise_worker.quantise(QuantisationJob(plan=plan, merged=merged, output=place / "fp8"))
    assert made.calibration_tokens == 0
    assert 0 < made.quality.mean_kl < 0.2
    return variants | {"fp8": (place / "fp8", plan.engine)}


@pytest.mark.timeout(900)
@pytest.mark.vllm
def test_vllm_serves_every_precision_and_computes_what_was_measured(int8, tiny_variants, tmp_path):
    """One run: INT8 of the real model answers; the others give the log-probabilities that evaluation saw.

    vLLM emulates the products of FP8 on a CPU: any two computations of it differ by about 0.15 nats on single tokens.
    """
    from services.quantiser.adapters.evaluation import load_variant

    script, ids = tmp_path / "serve.py", [3 + (7 * n * n + 11 * n) % 256 for n in range(200)]
    script.write_text(SERVE)
    order = {"chat": str(int8[0]), "folders": [str(folder) for folder, _ in tiny_variants.values()], "ids": ids}
    environment = {
        "PATH": f"{ENGINE_PYTHON.parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    done = subprocess.run(
        [str(ENGINE_PYTHON), str(script), json.dumps(order)],
        env=environment,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:] or sys.version
    reply = json.loads(done.stdout.split("FOUND:")[-1])
    assert "Paris" in reply["answer"]
    served = {
        variant: torch.tensor(logprobs) for variant, logprobs in zip(tiny_variants, reply["logprobs"], strict=True)
    }
    measured = {}
    for variant, (folder, engine) in tiny_variants.items():
        with torch.inference_mode():
            logits = load_variant(folder, engine, "bfloat16")(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        measured[variant] = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    far = {(of, by): float((served[of] - measured[by]).abs().mean()) for of in served for by in measured}
    print(far)
    for variant in ("bf16", "gptq-int4", "awq-int4"):
        assert min(served, key=lambda of: far[of, variant]) == variant, "it has to be nearest to its own files"
        assert far[variant, variant] < 0.1
    assert min(measured, key=lambda by: far["fp8", by]) == "fp8", "it is nearer to what was measured than to 16 bit"
    assert far["fp8", "fp8"] < 0.25
