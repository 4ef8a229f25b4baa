"""Compares the log-probabilities of loaded targets on fixed texts with the reference recorded at staging."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog

from services.server_manager.domain.references import (
    TEXTS,
    Answer,
    Reference,
    References,
    describe_difference,
    make_reference,
)
from shared.errors import SlipwayError, Transient
from shared.runtime.clock import Clock
from shared.serving.inference import is_api_server, score_prompt
from shared.storage.compare_and_set import Records, edit_record

AGAIN_S: Final = 86_400.0
"""Seconds between comparisons of a running target."""
RETRY_S: Final = 600.0
"""Seconds until the next comparison after a difference or failure."""


class KeptReferences:
    """Scores fixed texts on each target after every load and daily, and compares with its first answer."""

    def __init__(
        self, records: Records[References], fleet: str, hardware: str, clock: Clock, least_nats: float
    ) -> None:
        """Set the bucket, the fleet's name and hardware, the clock, and the minimum tolerance in nats."""
        self.hardware = hardware
        self._records = records
        self._key = f"{fleet}.references"
        self._clock = clock
        self._least_nats = least_nats
        self._known = References()
        self._last: dict[tuple[str, str], tuple[float, str | None]] = {}
        """By address and target: monotonic time of the next comparison, and the last difference."""
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._log = structlog.get_logger()

    def forget(self, address: str, name: str) -> None:
        """Make the comparison due at the next probe, after a load or a return."""
        self._last.pop((address, name), None)

    async def check(
        self, channel: Any, name: str, address: str, conditions: str, limit_s: float, *, base: str | None = None
    ) -> None:
        """Compare a target with its reference if due, one address at a time.

        A failed request is retried later. With `base`, the adapter's base model, the adapter must also answer
        differently from it; then a failed request counts as a difference.

        Raises:
            Transient: `logprobs_differ`; repeated at each call until the next comparison.
        """
        async with self._asking[name]:
            due_s, why = self._last.get((address, name), (-math.inf, None))
            if self._clock.monotonic() >= due_s:
                try:
                    async with asyncio.timeout(limit_s):
                        why = await self._ask(channel, name, conditions, limit_s, base)
                    again_s = AGAIN_S if why is None else RETRY_S
                except (SlipwayError, TimeoutError) as error:
                    self._log.warning("log-probabilities are not compared", target=name, why=str(error))
                    again_s = RETRY_S
                    if base is not None:
                        why, again_s = f"nothing shows that the adapter answers, and not {base}: {error}", 0.0
                self._last[address, name] = (self._clock.monotonic() + again_s, why)
        if why is not None:
            raise Transient("logprobs_differ", f"{name}: {why}")

    async def _ask(self, channel: Any, name: str, conditions: str, limit_s: float, base: str | None) -> str | None:
        """Return a target's difference from its reference as text; None without one, or if the engine cannot score."""
        answer = await self._score(channel, name, limit_s)
        if base is not None and await self._answers_as(channel, base, answer, limit_s):
            return f"it answers fixed texts as its base model {base} does: serve a LoRA that moves them less as merged"
        if not any(answer):
            return None
        reference = self._known.find(name, conditions) or await self._read(name, conditions)
        if reference is None:
            reference = await self._record(channel, name, conditions, limit_s, answer)
        return describe_difference(reference, answer)

    async def _answers_as(self, channel: Any, base: str, answer: Answer, limit_s: float) -> bool:
        """Return whether an answer is within the base model's own tolerance, or either answer is missing."""
        answers = [await self._score(channel, base, limit_s, together) for together in (1, len(TEXTS))]
        own = make_reference(base, "", answers, self._least_nats)
        return not (any(answer) and any(answers[0])) or own is None or describe_difference(own, answer) is None

    async def _read(self, name: str, conditions: str) -> Reference | None:
        await self._edit(lambda record: record)
        return self._known.find(name, conditions)

    async def _record(self, channel: Any, name: str, conditions: str, limit_s: float, answer: Answer) -> Reference:
        """Record a target's answers, single and batched; return the stored reference, maybe another process's."""
        answers = [answer, *[await self._score(channel, name, limit_s, together) for together in (1, len(TEXTS))]]
        reference = make_reference(name, conditions, answers, self._least_nats)
        if reference is None:
            raise Transient("engine_failed", f"{name} scores no fixed text twice, or by no figures")
        self._log.info("recorded log-probabilities", target=name, tolerance_nats=round(reference.tolerance_nats, 4))
        await self._edit(lambda record: (record or References()).with_new(reference))
        return self._known.find(name, conditions) or reference

    async def _edit(self, decide: Callable[[References | None], References | None]) -> None:
        entry = await edit_record(self._records, self._key, decide, name=f"servers/{self._key}")
        self._known = entry.value if entry is not None else self._known

    async def _score(self, channel: Any, name: str, limit_s: float, together: int = 1) -> Answer:
        """Return a target's current log-probabilities in nats, scoring `together` texts concurrently.

        Triton scores each text's tokens; a server of the API, the likeliest next tokens after the text.
        """
        ask = channel.score_next if is_api_server(channel) else partial(score_prompt, channel)
        answer: Answer = ()
        for begin in range(0, len(TEXTS), together):
            texts = TEXTS[begin : begin + together]
            answer += tuple(map(tuple, await asyncio.gather(*(ask(name, text, limit_s) for text in texts))))
        return answer
