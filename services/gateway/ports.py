"""Ports of the gateway: the serving fleet, chat templates, telemetry, identifiers and time."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from contracts.facts import Inference, InferenceBatch
from contracts.vocabulary import Environment, Target
from services.gateway.domain.requests import Message
from shared.serving.tensors import Delta


class Engine(Protocol):
    """The serving fleet."""

    def generate(
        self, endpoint: str, target: Target, prompt: str, sampling: Mapping[str, Any], request_id: str
    ) -> AsyncGenerator[Delta, None]:
        """Stream an answer; closing the stream aborts it in the engine. Raises the errors of `inference.generate`."""

    async def await_reconnect(self, endpoint: str) -> None:
        """Return when the endpoint is connected again, or after a short time limit."""


class Templates(Protocol):
    """Renders chat templates, which are code from outside."""

    async def render(self, template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
        """Return a rendered conversation that ends where the assistant's answer begins.

        Raises:
            MessagesRejected: the template rejected these messages, with a reason.
            TemplateFailed: the template failed or exceeded a limit with these messages.
            TemplateBusy: no process was free, or none could be started.
        """

    async def renders_probe(self, template: str, *, bos_token: str, eos_token: str) -> bool | None:
        """Return whether the template renders the first of `PROBE_CONVERSATIONS` and fails on none of them.

        It does not depend on the load by callers; None if it could not be tried.
        """


class MessagesRejected(Exception):  # noqa: N818 - the caller's messages are the cause
    """A template rejected the messages (its `raise_exception`)."""


class TemplateFailed(Exception):  # noqa: N818 - the template or the messages, see `Templates.renders_probe`
    """A template could not be rendered with these messages.

    Attributes:
        stopped: it took too long, or its process ended; a slow machine or long messages can be the cause.
    """

    def __init__(self, message: str, *, stopped: bool = False) -> None:
        super().__init__(message)
        self.stopped = stopped


class TemplateBusy(Exception):  # noqa: N818 - the gateway's own limit
    """No process was free, or could be started, to render a template."""


PROBE_CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "Hello"},),
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}),
    (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Gr\u00fc\u00dfe"},
    ),
)
"""The fixed conversations of `Templates.renders_probe`: the first must be rendered, the others may be rejected."""


class TelemetrySink(Protocol):
    """Publishes batches of telemetry."""

    async def publish(self, batch: InferenceBatch, *, model: str, environment: Environment, batch_id: str) -> None:
        """Publish a batch; a batch that is published again with the same id is stored once. Raises Transient."""


class Telemetry(Protocol):
    """Takes telemetry records; never blocks a request."""

    @property
    def problem(self) -> str | None:
        """Return why nothing can be published now; None if it works."""

    def record(self, record: Inference, /) -> None:
        """Add a record; return at once."""


class NewId(Protocol):
    """Makes identifiers."""

    def __call__(self) -> str:
        """Return a unique identifier: lower-case hexadecimal."""


class Pause(Protocol):
    """Waits (`asyncio.sleep`)."""

    async def __call__(self, delay: float, /) -> None:
        """Return after `delay` seconds."""
