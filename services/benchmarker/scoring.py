"""Asks the serving engine for log-probabilities, while nothing else is asked of it."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.facts import Measurement, ServedQuality, VariantStaged
from contracts.manifests import HeldOutWindow
from contracts.routes import ServedTarget
from contracts.vocabulary import Deployable
from services.benchmarker.domain.fault_attribution import differs
from services.benchmarker.domain.records import Side
from services.benchmarker.domain.served_quality import (
    BaselineScores,
    WindowScore,
    assess_own_answers,
    assess_scored,
    choose_windows,
    mean_deviation,
    not_measured,
    score_window,
)
from services.benchmarker.load import LoadedSide
from services.benchmarker.ports import Engine, Reports
from shared.errors import Permanent, SlipwayError

Windows = tuple[HeldOutWindow, ...]

TRIES = 2
"""How often the scoring is begun: a request that goes wrong on its way must not decide about a variant."""
LEAST_TIMEOUT_S = 60.0
ANSWERS = 4
"""Prompts whose answers are looked at where the engine scores no text."""


@dataclass(frozen=True)
class Scoring:
    """Measures quality through the engine.

    Attributes:
        engine: Serves both sides.
        reports: Holds the candidate's manifest.
        sides: Candidate and baseline, with their rendered prompts.
        timeout_s: How long the engine may take over one window, which it reads whole.
    """

    engine: Engine
    reports: Reports
    sides: Mapping[Side, LoadedSide]
    timeout_s: float = LEAST_TIMEOUT_S

    async def measure(self, staged: VariantStaged) -> ServedQuality:
        """Score the candidate on its held-out windows, or compare generated answers where the engine cannot.

        An engine that fails twice has measured nothing; the load that follows finds out what became of it.

        Raises:
            Transient: The store does not answer.
        """
        windows, unread = await self._recorded(staged.request.candidate)
        beside = await self._recorded(staged.request.baseline)
        measurement = await self._measured(staged.request.candidate) if windows else None
        missing = "The variant's manifest holds no held-out windows; quantise it again."
        if unread:
            missing = f"The variant's manifest cannot be read: {unread}"
        problem = ""
        for _ in range(TRIES):
            try:
                if not await self.engine.can_score(staged.candidate, timeout_s=self.timeout_s):
                    return await self._compare_answers(staged)
                return await self._score(staged, windows, beside, measurement) if windows else not_measured(missing)
            except SlipwayError as error:
                problem = error.sentence()
                if isinstance(error, Permanent):
                    break
        return not_measured(f"The engine could not be asked: {problem}")

    async def _recorded(self, one: Deployable) -> tuple[Windows, str]:
        """Return the windows of the last measurement of a target; none, and the problem, where it cannot be read."""
        try:
            return await asyncio.to_thread(self.reports.held_out, one.measurement_manifest or one.manifest), ""
        except Permanent as error:
            return (), error.sentence()

    async def _measured(self, one: Deployable) -> Measurement | None:
        """Return how the quality of a target was measured; None where its manifest does not say, or cannot be read."""
        with contextlib.suppress(Permanent):
            return await asyncio.to_thread(self.reports.measurement, one.measurement_manifest or one.manifest)
        return None

    async def _score(
        self, staged: VariantStaged, windows: Windows, beside: tuple[Windows, str], measurement: Measurement | None
    ) -> ServedQuality:
        fitting = choose_windows(windows, context_tokens=staged.candidate.context_tokens)
        if not fitting:
            context = staged.candidate.context_tokens
            return not_measured(f"No held-out window fits the {context} tokens of context that are served.")
        scores = await self._score_windows(staged.candidate, fitting)
        order = staged.request
        if not differs(mean_deviation(scores)):
            return assess_scored(scores, order.quality_gate)
        return assess_scored(
            scores,
            order.quality_gate,
            baseline=await self._score_baseline(staged, fitting, beside),
            measurement=measurement,
            measured_again=order.measurement_number > 1,
        )

    async def _score_windows(self, served: ServedTarget, windows: Windows) -> tuple[WindowScore, ...]:
        scores = []
        for window in windows:  # one after the other: each keeps every core busy
            found = await self.engine.score(served, window.token_ids, timeout_s=self.timeout_s)
            scores.append(score_window(window, found))
        return tuple(scores)

    async def _score_baseline(
        self, staged: VariantStaged, windows: Windows, beside: tuple[Windows, str]
    ) -> BaselineScores:
        """Score the baseline on the windows of its own record, and on the candidate's, as far as it can be had.

        What fails here says nothing about the candidate: it is evidence that is missing.
        """
        served, (recorded, unread) = staged.baseline, beside
        own, problem = await self._try_windows(served, recorded)
        on_candidates, _ = await self._try_windows(served, windows)
        missing = unread or problem or ("" if own else "its manifest holds no held-out windows that fit its context.")
        return BaselineScores(own=own, on_candidates=on_candidates, missing=missing)

    async def _try_windows(self, served: ServedTarget, windows: Windows) -> tuple[tuple[WindowScore, ...], str]:
        """Return the scores of the windows that fit, or none and the problem: another vocabulary, a lost engine."""
        problem = ""
        fitting = choose_windows(windows, context_tokens=served.context_tokens)
        for _ in range(TRIES):
            try:
                if not await self.engine.can_score(served, timeout_s=self.timeout_s):
                    return (), "its engine scores no given text."
                return await self._score_windows(served, fitting), ""
            except SlipwayError as error:
                problem = error.sentence()
                if isinstance(error, Permanent):
                    break
        return (), problem

    async def _compare_answers(self, staged: VariantStaged) -> ServedQuality:
        output_tokens = staged.request.load.output_tokens
        candidate = await self._answers(self.sides["candidate"], output_tokens)
        baseline = await self._answers(self.sides["baseline"], output_tokens)
        return assess_own_answers(candidate, baseline)

    async def _answers(self, side: LoadedSide, output_tokens: int) -> list[float]:
        found: list[float] = []
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
                    found += delta.logprobs
        return found
