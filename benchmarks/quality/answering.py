"""Answers rows with vLLM as an engine serves them: chat template, natural end, greedy; in the engine's environment.

python answering.py MODEL_FOLDER ROWS.jsonl ANSWERS.jsonl
"""

import json
import os
import sys
from pathlib import Path

MOST_TOKENS = 64


def main() -> None:
    """Write one line per row: the text, and why it ended."""
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    from vllm import LLM, SamplingParams

    model, rows_file, out = (Path(argument) for argument in sys.argv[1:])
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    engine = LLM(model=str(model), dtype="bfloat16", enforce_eager=True, max_model_len=1024, max_num_seqs=64)
    greedy = SamplingParams(temperature=0.0, max_tokens=MOST_TOKENS)
    answers: dict[int, dict[str, str]] = {}
    for with_tools in (False, True):
        places = [place for place, row in enumerate(rows) if bool(row.get("tools")) is with_tools]
        if not places:
            continue
        tools = rows[places[0]].get("tools")
        asked = [rows[place]["messages"] for place in places]
        for place, answer in zip(places, engine.chat(asked, greedy, tools=tools), strict=True):
            answers[place] = {"text": answer.outputs[0].text, "end": str(answer.outputs[0].finish_reason)}
    out.write_text("".join(json.dumps(answers[place]) + "\n" for place in range(len(rows))))


if __name__ == "__main__":
    main()
