"""What the gateway needs from outside."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from contracts.facts import InferenceBatch
from contracts.vocabulary import Environment, Target
from services.gateway.domain.requests import Message
from shared.serving.inference import Delta


class Engine(Protocol):
    """The serving fleet."""

    def generate(
        self, endpoint: str, target: Target, prompt: str, sampling: Mapping[str, Any], request_id: str
    ) -> AsyncGenerator[Delta, None]:
        """Stream an answer; closing the stream aborts it in the engine. Raises as `inference.generate`."""

    async def await_reconnect(self, endpoint: str) -> None:
        """Return when the endpoint is connected again, or a short while has passed."""


class Templates(Protocol):
    """Renders chat templates, which are code from outside."""

    async def render(self, template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
        """Render a conversation up to where the assistant speaks.

        Raises:
            TemplateRefusal: the template refuses these messages, and says why.
            TemplateFailure: the template is broken, or exceeded a limit; with these messages.
            TemplateBusy: nothing was rendered, for want of a process.
        """

    async def renders_plain(self, template: str, *, bos_token: str, eos_token: str) -> bool | None:
        """Return whether the template renders a fixed harmless conversation and breaks on no other such one.

        Independent of what callers have rendered at the moment; None if it could not be tried.
        """


class TemplateRefusal(Exception):  # noqa: N818 - the caller's messages are at fault
    """A template refused the messages (its `raise_exception`)."""


class TemplateFailure(Exception):  # noqa: N818 - the template or the messages, see `Templates.renders_plain`
    """A template could not be rendered with these messages.

    Attributes:
        stopped: it took too long, or its process ended: a slow machine or long messages can cause that, too.
    """

    def __init__(self, message: str, *, stopped: bool = False) -> None:
        super().__init__(message)
        self.stopped = stopped


class TemplateBusy(Exception):  # noqa: N818 - the gateway's own limit
    """No process was free, or could be started, to render a template."""


HARMLESS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "Hello"},),
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}),
    (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Gr\u00fc\u00dfe"},
    ),
)
"""The fixed conversations of `Templates.renders_plain`: the first must be rendered, the others may be refused."""


class TelemetrySink(Protocol):
    """Where batches of telemetry go."""

    async def publish(self, batch: InferenceBatch, *, model: str, environment: Environment, batch_id: str) -> None:
        """Publish a batch; publishing it again under the same id stores it once. Raises Transient."""


class NewId(Protocol):
    """Makes identifiers."""

    def __call__(self) -> str:
        """Return an identifier that nobody has: lower-case hexadecimal."""


class Pause(Protocol):
    """Lets time pass (`asyncio.sleep`)."""

    async def __call__(self, delay: float, /) -> None:
        """Return after so many seconds."""
