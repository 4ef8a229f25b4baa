"""Renders probe conversations with chat templates, which are external code, in a separate, limited process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.merger.ports import Conversation
from shared.errors import Permanent
from shared.serving.chat_templates import ChatTemplates

Render = Callable[[str, Mapping[str, Any], Sequence[Conversation], datetime], list[str]]
"""Renders conversations with a template and its variables, for a given time."""
LIMIT_S = 10.0
"""CPU seconds for one rendering, which normally takes milliseconds."""


@dataclass
class FixedClock:
    """A clock that stands still: templates may print the date, and renderings before and after a merge are compared."""

    instant: datetime

    def now(self) -> datetime:
        """Return the fixed time."""
        return self.instant

    def monotonic(self) -> float:
        """Return 0."""
        return 0.0


def render_all(
    template: str,
    variables: Mapping[str, Any],
    conversations: Sequence[Conversation],
    now: datetime,
) -> list[str]:
    """Render conversations; call this in a thread without an event loop.

    Raises:
        Permanent: `bad_request` or `engine_failed`, from `ChatTemplates.render`.
        Transient: From `ChatTemplates.render`.
    """

    async def render() -> list[str]:
        templates = ChatTemplates(FixedClock(now), limit_s=LIMIT_S)
        try:
            return await render_by(templates, template, variables, conversations)
        finally:
            await templates.close()

    return asyncio.run(render())


async def render_by(
    templates: ChatTemplates, template: str, variables: Mapping[str, Any], conversations: Sequence[Conversation]
) -> list[str]:
    """Render conversations in one shared child process."""
    return [await _render_one(templates, template, variables, turns) for turns in conversations]


async def _render_one(
    templates: ChatTemplates, template: str, variables: Mapping[str, Any], turns: Conversation
) -> str:
    """Render a conversation, without its system turn if the template rejects it."""
    try:
        return await templates.render_with(template, {**variables, "messages": turns})
    except Permanent as error:
        if error.code != "bad_request" or turns[0]["role"] != "system":
            raise
        return await _render_one(templates, template, variables, turns[1:])
