"""Measures how soon this machine's engine begins its answers: the base model alone, at the rate of the demo's traffic.

    .venv-engine/bin/python -m examples.smollm2.machine --base FOLDER --rps 2 --requests 24

It runs in the engine's environment, with the engine's settings of the stack. The last line that it prints is a list
(JSON) of the milliseconds to the first token, in the order of the requests.
"""

import argparse
import asyncio
import json
import os
from pathlib import Path
from time import monotonic
from typing import Any

QUESTIONS = (
    "What does the for statement do in Python?",
    "Explain what a list is.",
    "How do I open a file?",
    "What is a dictionary good for?",
    "How do I define a function?",
)
ANSWER_TOKENS = 8
WARM_UP = 3
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
}
"""What the stack sets for its engines on a CPU."""


async def measure(base: Path, *, rps: float, requests: int) -> list[float]:
    """Return the milliseconds from each request's planned arrival to its first token, in an open loop."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(model=str(base), dtype="bfloat16", enforce_eager=True, max_model_len=2048)
    engine: Any = AsyncLLM.from_engine_args(arguments)
    tokenizer = engine.get_tokenizer()
    sampling = SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS, min_tokens=ANSWER_TOKENS)

    async def ask(number: int, arrived: float) -> float:
        turns = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        first = 0.0
        async for _ in engine.generate(prompt, sampling, request_id=f"request-{number}"):
            first = first or monotonic()
        return 1000 * (first - arrived)

    try:
        for number in range(WARM_UP):
            await ask(-1 - number, monotonic())
        started = monotonic()
        asked = []
        for number in range(requests):
            arrives = started + number / rps
            await asyncio.sleep(max(0.0, arrives - monotonic()))
            asked.append(asyncio.create_task(ask(number, arrives)))
        return await asyncio.gather(*asked)
    finally:
        engine.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the time to first token of the base model on this machine.")
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face folder of the base model")
    parser.add_argument("--rps", type=float, default=2.0, help="requests per second")
    parser.add_argument("--requests", type=int, default=24)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    print(json.dumps(asyncio.run(measure(options.base, rps=options.rps, requests=options.requests))))


if __name__ == "__main__":
    main()
