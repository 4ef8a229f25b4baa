"""Run by the engine environment's interpreter: `python score.py FOLDER`, with what the quantiser's self-check left.

Loads the model into vLLM as the serving backend does, scores the text, and writes `difference.json`: the mean absolute
difference from the expected log-probabilities, in nats a token. vLLM writes its log to standard output.

Only bfloat16 is checked. INT8 and INT4 use other products of vLLM, and there is no exact value to compare them with:
their activations are rounded as well. They would cost a second start of the engine. What they compute is measured for
each release instead, by the gate `served_quality`.
"""

import json
import locale
import os
import sys
from pathlib import Path
from typing import Any

CONTEXT = 512
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
    """Write the difference."""
    folder = Path(sys.argv[1])
    # vLLM cannot be imported under an ASCII locale, and asks the network when it is not told otherwise.
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    expected = json.loads((folder / "expected.json").read_text())
    scored = score(folder, expected["token_ids"])
    pairs = zip(scored, expected["log_probabilities"], strict=True)
    difference = sum(abs(ours - theirs) for ours, theirs in pairs) / len(scored)
    (folder / "difference.json").write_text(json.dumps(difference))


if __name__ == "__main__":
    main()
