"""The toy engine: generated text, and failures caused by texts in prompts."""

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Mapping
from typing import Any

WORDS = ("keel", "hull", "mast", "sail", "rope", "tide", "wind", "helm", "deck", "oar", "bow", "dock", "crew", "reef")
USUAL_TOKENS = 8
USUAL_CONTEXT = 4096
USUAL_NLL = {"token_nll": 2.0, "answer_nll": 0.5}


class EngineDeadError(Exception):
    """The error of a dead engine, until the model is unloaded and loaded again."""


def make_token(seed: str, index: int) -> str:
    """Return the token at a position, a function of model folder, prompt and position."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return ("" if index == 0 else " ") + WORDS[digest[0] % len(WORDS)]


def count_tokens(text: str) -> int:
    """Return the number of tokens of a prompt: its words, at least one."""
    return max(1, len(text.split()))


class ToyEngine:
    """A loaded toy model: its parameters, its seed, and whether it is dead."""

    def __init__(self, given: Mapping[str, str], config: bytes) -> None:
        """Use the parameters of config.pbtxt, overridden by the object `toy` of the model's config.json.

        Raises:
            ValueError: one of them cannot be read.
        """
        about: Any = json.loads(config)
        trained = about.get("max_position_embeddings") if isinstance(about, dict) else None
        own = about.get("toy", {}) if isinstance(about, dict) else {}
        self._given = given = {**given, **own}
        self.seed = hashlib.sha256(config).hexdigest()
        self.delay_s = float(given.get("token_delay_ms", "0")) / 1000
        self.tokens = int(given.get("tokens", USUAL_TOKENS))
        self.context_tokens = int(given.get("context_tokens", trained or USUAL_CONTEXT))
        self.token_logprob, self.answer_logprob = (-float(given.get(name, usual)) for name, usual in USUAL_NLL.items())
        self._is_dead = False
        self._step: asyncio.Task[None] | None = None

    async def wait_for_token(self, index: int) -> None:
        """Wait until a token can be generated: the first of an answer after its delay, others in common steps."""
        if index == 0:
            await asyncio.sleep(self.delay_s)
            return
        if self._step is None or self._step.done():
            self._step = asyncio.create_task(asyncio.sleep(self.delay_s))
        await asyncio.shield(self._step)

    def holds(self, switch: str, text: str) -> bool:
        """Return whether a text contains the value of a parameter."""
        marker = self._given.get(switch)
        return bool(marker) and str(marker) in text

    def take_prompt(self, text: str) -> None:
        """Kill the process, or mark the engine dead, if the prompt contains the configured text for it."""
        if self.holds("crash_text", text):
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_dead = self._is_dead or self.holds("dead_text", text)

    def raise_if_dead(self) -> None:
        """Raise EngineDeadError if a prompt has killed the engine."""
        if self._is_dead:
            raise EngineDeadError("the engine is dead")
