"""Asks an engine for the log-probabilities of a prompt's own tokens."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any, Final

from shared.serving.inference import Deadlines, stream_responses
from shared.serving.tensors import USUAL_FLAGS, build_request, raw_outputs, read_json

PROMPT_LOGPROBS: Final = "prompt_logprobs"


async def score_prompt(channel: Any, name: str, prompt: str | Sequence[int], limit_s: float) -> tuple[float, ...]:
    """Return the log-probability of every token but the first; nothing if the engine reports none.

    The engine also generates one token, as it must.

    Args:
        channel: to a Triton, from `Channels.get`.
        name: `<model>.v<n>.<variant>`.
        prompt: a text, or its token ids.
        limit_s: how long the engine may take.

    Raises:
        SlipwayError: as `inference.generate`.
    """
    inputs = {"text_input": prompt} if isinstance(prompt, str) else {"text_input": ""}
    if not isinstance(prompt, str):
        inputs["prompt_token_ids"] = json.dumps(list(prompt))
    inputs["sampling_parameters"] = json.dumps({"max_tokens": 1, "temperature": 0.0})
    request = build_request(name, inputs, (*USUAL_FLAGS, "return_prompt_logprobs"))
    output: Any = None
    async with contextlib.aclosing(stream_responses(channel, request, Deadlines(limit_s, limit_s))) as responses:
        async for response in responses:
            output = read_json(raw_outputs(response).get(PROMPT_LOGPROBS, b"")) or output
    return tuple(float(value) for value in output or () if isinstance(value, int | float))
