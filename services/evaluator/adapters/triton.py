"""Sends requests to staged targets through their engine's OpenAI API, over Triton's gRPC streaming."""

import json
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from contracts.routes import ServedTarget
from decisions.scorers.answers import Answer
from services.evaluator.domain.plan import PATH
from shared.errors import Transient
from shared.serving.channels import Channels
from shared.serving.engine_streams import ask_api
from shared.serving.openai_stream import ApiRequest


class TritonEndpoint:
    """Sends rows in turn to a target's endpoints, over one channel each (implements `ports.Endpoint`)."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._asked = Counter[str]()

    async def ask(self, served: ServedTarget, body: Mapping[str, Any], *, timeout_s: float) -> Answer | None:
        """Return the answer to a chat completion; None if the version rejects the request."""
        name = served.target.triton_name
        self._asked[name] += 1
        request = ApiRequest("POST", PATH, json.dumps(body).encode(), timeout_s, request_id="evaluation")
        channel = self._channels.get(served.endpoints[self._asked[name] % len(served.endpoints)])
        return read_answer(*await ask_api(channel, name, request))


def read_answer(status: int, body: bytes) -> Answer | None:
    """Parse a chat completions response; None if the request was rejected.

    Raises:
        Transient: The engine failed, or its response is malformed.
    """
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    if status != HTTPStatus.OK:
        raise Transient("engine_failed", f"The engine answered an evaluation's request with status {status}.")
    try:
        return Answer.of_choice(json.loads(body)["choices"][0])
    except (ValueError, LookupError, TypeError) as error:
        raise Transient("engine_failed", f"The engine's answer to an evaluation cannot be read: {error}.") from error
