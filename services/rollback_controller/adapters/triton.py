"""Asks targets for a real token, over Triton's gRPC."""

import asyncio
import contextlib
from typing import Final

from contracts.routes import ServedTarget
from decisions.probed import ProbedAnswer
from shared.errors import SlipwayError
from shared.serving.inference import Channels, Deadlines, first_token, generate

_SAMPLING: Final = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}


class TritonProbe:
    """Proves that a target generates (implements `ports.Probe`)."""

    def __init__(self, channels: Channels, *, deadline_s: float) -> None:
        # Takes a third of a second, which no rollback should pay.
        import tritonclient.grpc  # noqa: F401 - imported before the first probe, which it would delay

        self._channels = channels
        self._deadline_s = deadline_s

    async def answers(self, served: ServedTarget) -> str | None:
        """Return None when any endpoint generates a token in time, else why none does."""
        asked = [asyncio.ensure_future(self._ask(endpoint, served)) for endpoint in served.endpoints]
        reasons: list[str] = []
        try:
            for done in asyncio.as_completed(asked):
                why = await done
                if why is None:
                    return None
                reasons.append(why)
        finally:
            for attempt in asked:
                attempt.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return "; ".join(reasons)

    async def measure(self, served: ServedTarget) -> ProbedAnswer | None:
        """Return when the tokens of a short fixed answer came; None if they did not come in time."""
        clock, times_s = asyncio.get_running_loop(), list[float]()
        began_s, deadlines = clock.time(), Deadlines(first_token_s=self._deadline_s, inter_token_s=self._deadline_s)
        channel, name = self._channels.get(served.endpoints[0]), served.target.triton_name
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                contextlib.aclosing(generate(channel, name, "Hello", _SAMPLING, deadlines=deadlines)) as pieces,
            ):
                async for piece in pieces:
                    if piece.text:
                        times_s.append(clock.time())
        except (SlipwayError, TimeoutError):
            return None
        if not times_s:
            return None
        gaps = max(1, len(times_s) - 1)
        return ProbedAnswer((times_s[0] - began_s) * 1000.0, (times_s[-1] - times_s[0]) * 1000.0 / gaps)

    async def _ask(self, endpoint: str, served: ServedTarget) -> str | None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await first_token(self._channels.get(endpoint), served.target.triton_name, deadline_s=self._deadline_s)
        except SlipwayError as error:
            return f"{endpoint}: {error.reason}"
        except TimeoutError:
            return f"{endpoint}: no token within {self._deadline_s:g} s"
        return None
