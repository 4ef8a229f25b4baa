"""Renders probe conversations with chat templates (external code) in a separate process, under limits."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.merger.ports import Conversation
from shared.errors import Permanent
from shared.serving.chat_templates import ChatTemplates

Render = Callable[[str, Mapping[str, Any], Sequence[Conversation], datetime], list[str]]
"""Returns conversations rendered with a template and its variables, at an instant."""
LIMIT_S = 10.0
"""Seconds of processor time of one rendering, which takes milliseconds."""


@dataclass
class FixedClock:
    """A clock that stands still: templates may print the date, and are rendered before and after the merge."""

    instant: datetime

    def now(self) -> datetime:
        """Return the instant."""
        return self.instant

    def monotonic(self) -> float:
        """Return 0: no time passes."""
        return 0.0


def render_all(
    template: str,
    variables: Mapping[str, Any],
    conversations: Sequence[Conversation],
    now: datetime,
) -> list[str]:
    """Return rendered conversations; the calling thread has no event loop.

    Raises:
        Permanent: `bad_request` or `engine_failed`, as of `ChatTemplates.render`.
        Transient: As of `ChatTemplates.render`.
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
    """Return conversations rendered by a shared child process."""
    return [await _render_one(templates, template, variables, turns) for turns in conversations]


async def _render_one(
    templates: ChatTemplates, template: str, variables: Mapping[str, Any], turns: Conversation
) -> str:
    """Return a rendered conversation, without its system turn if the template rejects that."""
    try:
        return await templates.render_with(template, {**variables, "messages": turns})
    except Permanent as error:
        if error.code != "bad_request" or turns[0]["role"] != "system":
            raise
        return await _render_one(templates, template, variables, turns[1:])
