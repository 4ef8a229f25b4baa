"""Asks targets for a real token, over Triton's gRPC."""

import asyncio

from contracts.routes import ServedTarget
from shared.errors import SlipwayError
from shared.serving.channels import Channels
from shared.serving.inference import first_token


class TritonProbe:
    """Proves that a target generates (implements `ports.Probe`)."""

    def __init__(self, channels: Channels, *, deadline_s: float) -> None:
        # Takes a third of a second, which no rollback should pay.
        import tritonclient.grpc  # noqa: F401 - imported before the first probe, which it would delay

        self._channels = channels
        self._deadline_s = deadline_s

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None when so many endpoints generate a token in time, else why the others do not."""
        asked = [asyncio.ensure_future(self._ask(endpoint, served)) for endpoint in served.endpoints]
        reasons, generating = list[str](), 0
        try:
            for done in asyncio.as_completed(asked):
                why = await done
                if why is not None:
                    reasons.append(why)
                    continue
                generating += 1
                if generating >= least:
                    return None
        finally:
            for attempt in asked:
                attempt.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return "; ".join(reasons)

    async def _ask(self, endpoint: str, served: ServedTarget) -> str | None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await first_token(self._channels.get(endpoint), served.target.triton_name, deadline_s=self._deadline_s)
        except SlipwayError as error:
            return f"{endpoint}: {error.reason}"
        except TimeoutError:
            return f"{endpoint}: no token within {self._deadline_s:g} s"
        return None
