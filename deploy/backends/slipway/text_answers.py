"""Answers as text, for probes, benchmarks and scoring, by vLLM's engine without its application."""

import contextlib
from typing import Any

from engine_tensors import Ask, Piece
from openai_record import salted
from replies import Reply


async def generate(llm: Any, ask: Ask, reply: Reply, request_id: str) -> None:
    """Answer a request as text, with vLLM's own sampling parameters.

    Args:
        llm: vLLM's `AsyncLLM`.
        ask: the request.
        reply: takes the parts of the answer.
        request_id: unique in the engine.

    Raises:
        ValueError: the sampling parameters are not valid.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    kind = RequestOutputKind.FINAL_ONLY if ask.want_prompt_logprobs else RequestOutputKind.DELTA
    wanted = {"logprobs": ask.want_logprobs, "prompt_logprobs": ask.want_prompt_logprobs}
    # 0: of the token itself, and of no others
    more = {name: 0 for name, is_wanted in wanted.items() if is_wanted}
    sampling = SamplingParams(**{**ask.sampling, **more, "output_kind": kind})
    if sampling.n != 1:
        raise ValueError("n must be 1: send one request per completion")
    async with contextlib.aclosing(llm.generate(prompt_of(ask), sampling, request_id)) as outputs:
        async for output in outputs:
            piece = _piece(output)
            if piece.num_output_tokens or piece.finish_reason is not None:
                reply.send(ask, piece)


def prompt_of(ask: Ask) -> Any:
    """Return the prompt of a request as vLLM takes it."""
    prompt = {"prompt": ask.text} if ask.token_ids is None else {"prompt_token_ids": ask.token_ids}
    return salted(prompt, ask.cache_salt)


def _piece(output: Any) -> Piece:
    first = output.outputs[0]
    positions = zip(first.token_ids, first.logprobs, strict=True) if first.logprobs else ()
    return Piece(
        text=first.text,
        finish_reason=first.finish_reason,
        num_input_tokens=len(output.prompt_token_ids or ()),
        num_output_tokens=len(first.token_ids),
        logprobs=[position[token].logprob for token, position in positions],
        prompt_logprobs=_prompt_logprobs(output),
    )


def _prompt_logprobs(output: Any) -> list[float | None] | None:
    if output.prompt_logprobs is None:
        return None
    pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
    return [position[token].logprob if position else None for token, position in pairs]
