"""Run by the engine environment's interpreter: `python score.py FOLDER`, with what the quantiser's self-check left.

Loads the model into vLLM in bfloat16 and in INT8, scores the text with each, and writes `differences.json`: by
precision, the mean absolute difference from the expected log-probabilities, in nats a token. vLLM writes its log to
standard output.

INT4 is not checked; the gate `served_quality` measures it for each release.
"""

import json
import locale
import os
import sys
from pathlib import Path
from typing import Any

CONTEXT = 512
FOLDERS = {"bfloat16": ".", "int8": "int8"}
"""The folder of each precision's model, in the one that is given."""
ENGINE = {"dtype": "bfloat16", "enforce_eager": True, "skip_tokenizer_init": True, "max_model_len": CONTEXT}


def score(folder: Path, token_ids: list[int]) -> list[float]:
    """Return the log-probability that vLLM gives each token but the first."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=str(folder), **ENGINE)
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    (answer,) = engine.generate([{"prompt_token_ids": token_ids}], sampling, use_tqdm=False)
    scored: list[Any] = answer.prompt_logprobs[1:]
    return [float(of[token].logprob) for of, token in zip(scored, token_ids[1:], strict=True)]


def main() -> None:
    """Write the differences."""
    folder = Path(sys.argv[1])
    # vLLM cannot be imported under an ASCII locale, and asks the network when it is not told otherwise.
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    # In one process the second model takes 3 s; an engine process of its own takes 20 s.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    expected = json.loads((folder / "expected.json").read_text())
    differences = {}
    for precision, name in FOLDERS.items():
        scored = score(folder / name, expected["token_ids"])
        pairs = zip(scored, expected["log_probabilities"], strict=True)
        differences[precision] = sum(abs(ours - theirs) for ours, theirs in pairs) / len(scored)
    (folder / "differences.json").write_text(json.dumps(differences))


if __name__ == "__main__":
    main()
