"""Renders chat templates in the shared sandbox."""

from collections.abc import Sequence

from contracts.routes import ServedTarget
from services.benchmarker.domain.prompts import Message
from shared.serving.chat_templates import ChatTemplates


class SandboxedTemplate:
    """Renders a target's own chat template; without one, joins the messages' texts."""

    def __init__(self, templates: ChatTemplates) -> None:
        self._templates = templates

    async def __call__(self, served: ServedTarget, messages: Sequence[Message]) -> str:
        """Return the prompt; raise Permanent if the chat template rejects the messages."""
        if served.chat_template is None:
            return "\n\n".join(message.content for message in messages)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return await self._templates.render(
            served.chat_template, turns, bos_token=served.bos_token, eos_token=served.eos_token
        )
