"""FP8 of a tiny model: vLLM reads the files on a CPU, where it emulates the products, and computes what was measured."""

import json
import subprocess
import sys

import pytest
import torch

from contracts.facts import QuantiseSettings
from services.quantiser.adapters import quantise_worker
from services.quantiser.adapters.evaluation import load_narrow, load_variant
from services.quantiser.domain import QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.ports import QuantisationJob
from testbed.models import tiny_base
from testbed.triton import ENGINE

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.filterwarnings("ignore::UserWarning")]
IDS = [3 + (7 * n * n + 11 * n) % 256 for n in range(120)]
SERVE = """
import gc, json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    order, scores, engine = json.loads(sys.argv[1]), {}, None
    for name, folder in order["folders"].items():
        del engine
        gc.collect()
        engine = LLM(folder, dtype="bfloat16", enforce_eager=True, max_model_len=256, skip_tokenizer_init=True)
        sampling = SamplingParams(max_tokens=4, temperature=0.0, prompt_logprobs=0, detokenize=False)
        answer = engine.generate({"prompt_token_ids": order["ids"]}, sampling, use_tqdm=False)[0]
        scored = zip(order["ids"][1:], answer.prompt_logprobs[1:])
        scores[name] = [list(answer.outputs[0].token_ids), [of[token].logprob for token, of in scored]]
    print("SCORES:" + json.dumps(scores))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp8")
    merged = tiny_base(folder / "merged", hidden=128)
    config = json.loads((merged / "config.json").read_text())
    defaults = QuantiserDefaults(held_out_windows=2, held_out_tokens=64, min_calibration_tokens=64)
    plan = plan_quantisation("fp8", read_shape(config, "bfloat16"), QuantiseSettings(calibration_samples=0), defaults)
    made = quantise_worker.quantise(QuantisationJob(plan=plan, merged=merged, output=folder / "output"))
    assert made.calibration_tokens == 0
    assert 0 < made.quality.mean_kl < 0.2
    return {"bf16": merged, "fp8": folder / "output"}


@torch.inference_mode()
def measured(model):
    logits = model(input_ids=torch.tensor([IDS])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]


@pytest.mark.timeout(300)
def test_vllm_computes_fp8_as_it_was_measured_and_not_as_bf16(folders, tmp_path):
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    order = {"folders": {name: str(folder) for name, folder in folders.items()}, "ids": IDS}
    environment = {
        "PATH": f"{ENGINE / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    done = subprocess.run(
        [str(ENGINE / "bin" / "python"), str(script), json.dumps(order)],
        env=environment,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:] or sys.version
    served = json.loads(done.stdout.split("SCORES:")[-1])
    own = {"bf16": measured(load_narrow(folders["bf16"]).float()), "fp8": measured(load_fp8(folders["fp8"]))}
    far = {
        (of, by): float((torch.tensor(served[of][1]) - own[by]).abs().mean()) for of in served for by in ("bf16", "fp8")
    }
    print(far, {name: tokens for name, (tokens, _) in served.items()})
    assert far["fp8", "fp8"] < far["fp8", "bf16"], "it is nearer to what was measured than to 16 bit"
    assert far["bf16", "bf16"] < far["bf16", "fp8"]
    assert far["bf16", "bf16"] < 0.1
    assert far["fp8", "fp8"] < 0.25, "any two computations of FP8 differ by about 0.15 nats on single tokens"
    assert len(served["fp8"][0]) == len(served["bf16"][0]) == 4


def load_fp8(folder):
    return load_variant(folder, "llmcompressor", "bfloat16")
