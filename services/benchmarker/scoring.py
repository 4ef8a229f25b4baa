"""Measures quality through the serving engine, while no other request runs."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.facts import ServedQuality, VariantStaged
from contracts.manifests import HeldOutWindow
from contracts.vocabulary import Deployable
from services.benchmarker.domain.records import Side
from services.benchmarker.domain.served_quality import (
    assess_own_answers,
    assess_scored,
    choose_windows,
    not_measured,
    score_window,
)
from services.benchmarker.load import LoadedSide
from services.benchmarker.ports import Engine, Reports
from shared.errors import Permanent, SlipwayError

Windows = tuple[HeldOutWindow, ...]

ATTEMPTS = 2
"""Attempts to score, so that one failed request does not decide about a variant."""
LEAST_TIMEOUT_S = 60.0
ANSWERS = 4
"""Prompts for comparing answers when the engine cannot score text."""


@dataclass(frozen=True)
class Scoring:
    """Measures quality through the engine.

    Attributes:
        engine: Serves both sides.
        reports: Returns the candidate's held-out windows.
        sides: Candidate and baseline with rendered prompts.
        timeout_s: Seconds for the engine to score one window.
    """

    engine: Engine
    reports: Reports
    sides: Mapping[Side, LoadedSide]
    timeout_s: float = LEAST_TIMEOUT_S

    async def measure(self, staged: VariantStaged) -> ServedQuality:
        """Return the served quality: scored on held-out windows, or from generated answers if the engine cannot score.

        If the engine fails twice, the result is inconclusive; the following load records the errors.

        Raises:
            Transient: The store does not answer.
        """
        windows, problem = await self._recorded_windows(staged.request.candidate)
        missing = "The variant's manifest has no held-out windows; quantise it again."
        if problem:
            missing = f"The variant's manifest cannot be read: {problem}"
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                if not await self.engine.can_score(staged.candidate, timeout_s=self.timeout_s):
                    return await self._compare_answers(staged)
                return await self._score(staged, windows) if windows else not_measured(missing)
            except SlipwayError as error:
                problem = error.sentence()
                if isinstance(error, Permanent):
                    break
        return not_measured(f"The engine did not score the windows: {problem}")

    async def _recorded_windows(self, deployable: Deployable) -> tuple[Windows, str]:
        """Return a target's held-out windows; if they are unreadable, none and the problem."""
        try:
            return await asyncio.to_thread(self.reports.held_out, deployable.manifest), ""
        except Permanent as error:
            return (), error.sentence()

    async def _score(self, staged: VariantStaged, windows: Windows) -> ServedQuality:
        served = staged.candidate
        fitting = choose_windows(windows, context_tokens=served.context_tokens)
        if not fitting:
            return not_measured(f"No held-out window fits the served context of {served.context_tokens} tokens.")
        scores = []
        for window in fitting:  # in sequence, because each uses all cores
            logprobs = await self.engine.score(served, window.token_ids, timeout_s=self.timeout_s)
            scores.append(score_window(window, logprobs))
        return assess_scored(scores, staged.request.quality_gate)

    async def _compare_answers(self, staged: VariantStaged) -> ServedQuality:
        output_tokens = staged.request.load.output_tokens
        candidate = await self._answers(self.sides["candidate"], output_tokens)
        baseline = await self._answers(self.sides["baseline"], output_tokens)
        return assess_own_answers(candidate, baseline)

    async def _answers(self, side: LoadedSide, output_tokens: int) -> list[float]:
        logprobs: list[float] = []
        for number, prompt in enumerate(side.prompts[:ANSWERS]):
            if prompt is None:
                continue
            stream = self.engine.stream(
                side.served,
                prompt,
                output_tokens=output_tokens,
                timeout_s=self.timeout_s,
                number=number,
                logprobs=True,
            )
            async with contextlib.aclosing(stream) as deltas:
                async for delta in deltas:
                    logprobs += delta.logprobs
        return logprobs
