"""Asks both sides as callers do, until the model stops by itself: how many answers end, and how long they are."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from contracts.facts.staging import NaturalAnswers
from contracts.routes import ServedTarget
from services.benchmarker.domain import tool_calls
from services.benchmarker.domain.prompts import Prompt, choose_fitting
from services.benchmarker.domain.records import Side
from services.benchmarker.ports import Engine
from shared.errors import SlipwayError

PROMPTS: Final = 16
"""So many prompts are asked of each side."""
MOST_TOKENS: Final = 256
"""An answer of so many tokens did not end by itself."""
TOGETHER: Final = 4
"""So many prompts are asked at the same time."""
LONGEST_S: Final = 10.0
"""No prompt is asked later than that: an engine on a CPU would take minutes for all."""


async def count_endings(
    engine: Engine,
    sides: Mapping[Side, ServedTarget],
    prompts: Sequence[Prompt],
    *,
    context_tokens: int,
    timeout_s: float,
) -> dict[Side, NaturalAnswers]:
    """Return how the answers of each side ended, of the prompts that both answered; nothing if there is none."""
    limit = min(MOST_TOKENS, context_tokens // 2)
    fitting = choose_fitting(prompts, context_tokens=context_tokens, output_tokens=limit)
    chosen = fitting[:: max(1, len(fitting) // PROMPTS)][:PROMPTS]  # a set may be in the order of its slices
    at_work, failures = asyncio.Semaphore(TOGETHER), list[SlipwayError]()
    loop = asyncio.get_running_loop()
    until = loop.time() + LONGEST_S

    async def ask(served: ServedTarget, prompt: Prompt) -> tuple[bool, int]:
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
        asked = {"messages": messages} if messages else {"prompt": prompt.text}
        path = tool_calls.PATH if messages else "/v1/completions"
        body = {"model": served.target.model, **asked, "max_tokens": limit, "temperature": 0.0}
        answer = await engine.ask_api(served, path, body, timeout_s=tool_calls.plan_timeout(timeout_s, limit))
        given = json.loads(answer.body)
        return given["choices"][0]["finish_reason"] != "length", given["usage"]["completion_tokens"]

    async def ask_both(prompt: Prompt) -> dict[Side, tuple[bool, int]] | None:
        async with at_work:
            if failures or loop.time() > until:
                return None  # each further request could cost a time limit
            try:
                answers = await asyncio.gather(*(ask(served, prompt) for served in sides.values()))
            except SlipwayError as error:
                failures.append(error)
                return None
            except (ValueError, LookupError, TypeError):
                return None
        return dict(zip(sides, answers, strict=True))

    pairs = [pair for pair in await asyncio.gather(*map(ask_both, chosen)) if pair is not None]
    return {
        side: NaturalAnswers(
            asked=len(pairs),
            ended=sum(pair[side][0] for pair in pairs),
            mean_tokens=fmean(pair[side][1] for pair in pairs),
            most_tokens=limit,
        )
        for side in (sides if pairs else ())
    }
