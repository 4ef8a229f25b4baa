"""The engine behind Triton's gRPC streaming."""

from collections.abc import AsyncGenerator, Sequence

from contracts.routes import ServedTarget
from shared.inference import Channels, Deadlines, Delta, generate


class TritonEngine:
    """Streams answers through one channel per endpoint."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def stream(
        self, served: ServedTarget, prompt: str, *, output_tokens: int, timeout_s: float, number: int
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer, greedily and past any end of text, so that both sides do the same work."""
        endpoint = served.endpoints[number % len(served.endpoints)]
        sampling = {"max_tokens": output_tokens, "temperature": 0.0, "ignore_eos": True}
        return generate(
            self._channels.get(endpoint),
            served.target.triton_name,
            prompt,
            sampling,
            # The load's own deadline covers the whole answer and comes first; these only keep a stream from staying.
            deadlines=Deadlines(first_token_s=2 * timeout_s, inter_token_s=2 * timeout_s),
        )

    async def retire(self, served: Sequence[ServedTarget]) -> None:
        """Close the channels to endpoints that are no longer measured."""
        await self._channels.keep_only({endpoint for one in served for endpoint in one.endpoints})
