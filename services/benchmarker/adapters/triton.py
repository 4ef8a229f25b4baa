"""The serving engine, behind Triton's gRPC streaming or an OpenAI API server."""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from contracts.routes import ServedTarget
from services.benchmarker.domain.tool_calls import ApiAnswer
from shared.errors import Transient
from shared.serving.channels import Channels
from shared.serving.engine_streams import ask_api
from shared.serving.http_channel import HttpChannel
from shared.serving.inference import PROMPT_LOGPROBS, Deadlines, classify_rpc_error, generate, score_prompt
from shared.serving.openai_stream import ApiRequest
from shared.serving.tensors import Delta


class TritonEngine:
    """Streams answers and scores texts over one channel per endpoint."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def stream(
        self,
        served: ServedTarget,
        prompt: str,
        *,
        output_tokens: int,
        timeout_s: float,
        number: int,
        logprobs: bool = False,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer, greedily and past any end of text, so that both sides do equal work."""
        endpoint = served.endpoints[number % len(served.endpoints)]
        sampling = {"max_tokens": output_tokens, "temperature": 0.0, "ignore_eos": True}
        answer = generate(
            self._channels.get(endpoint),
            served.target.triton_name,
            prompt,
            sampling,
            # The load's own deadline covers the whole answer and expires first; these only end a stuck stream.
            deadlines=Deadlines(first_token_s=2 * timeout_s, inter_token_s=2 * timeout_s),
            logprobs=logprobs,
            cache_salt=cache_salt,
        )
        async with contextlib.aclosing(answer) as deltas:
            async for delta in deltas:
                yield delta

    async def can_score(self, served: ServedTarget, *, timeout_s: float) -> bool:
        """Return whether an engine reports the log-probabilities of prompts: vLLM on Triton does.

        Attached servers are never asked: vLLM 0.32 with `--enable-lora` crashes when it scores beside other requests.
        """
        if isinstance(self._channels.get(served.endpoints[0]), HttpChannel):
            return False
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        name = served.target.triton_name
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channels.get(served.endpoints[0]))
        try:
            metadata = await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=name), timeout=timeout_s)
        except grpc.RpcError as error:
            raise classify_rpc_error(error, name) from error
        return any(output.name == PROMPT_LOGPROBS for output in metadata.outputs)

    async def score(self, served: ServedTarget, token_ids: Sequence[int], *, timeout_s: float) -> tuple[float, ...]:
        """Return log-probabilities of all tokens after the first; the engine also generates one token."""
        name = served.target.triton_name
        logprobs = await score_prompt(self._channels.get(served.endpoints[0]), name, token_ids, timeout_s)
        if len(logprobs) != len(token_ids) - 1:
            actual = f"{len(logprobs)} log-probabilities for a prompt of {len(token_ids)} tokens"
            raise Transient("engine_failed", f"The engine of {name} returned {actual}.")
        return logprobs

    async def ask_api(self, served: ServedTarget, path: str, body: Mapping[str, Any], *, timeout_s: float) -> ApiAnswer:
        """Return the complete answer of the engine's OpenAI API (see `ports.Engine`)."""
        request = ApiRequest("POST", path, json.dumps(body).encode(), timeout_s, request_id="benchmark")
        channel = self._channels.get(served.endpoints[0])
        return ApiAnswer(*await ask_api(channel, served.target.triton_name, request))

    async def retire(self, served: Sequence[ServedTarget]) -> None:
        """Close channels to endpoints of other targets."""
        await self._channels.keep_only({endpoint for target in served for endpoint in target.endpoints})
