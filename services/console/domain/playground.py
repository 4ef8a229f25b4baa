"""The playground: one prompt to two versions of a model. Pure."""

from typing import Final

from contracts.routes import Route
from services.console.domain.screens import Screen

LONGEST_PROMPT: Final = 8000
MOST_TOKENS: Final = 1024


class Answer(Screen):
    """A version's answer or error; times are measured by the console, in milliseconds."""

    version: int
    text: str = ""
    problem: str = ""
    fingerprint: str = ""
    ttft_ms: float | None = None
    e2e_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Served(Screen):
    """A version that the gateway serves by number."""

    version: int
    target: str
    role: str


def askable(route: Route | None) -> tuple[Served, ...]:
    """Return the versions that the gateway serves by number: the route's, without shadow and quarantined ones."""
    if route is None:
        return ()
    listed: dict[int, Served] = {}
    for role, served in route.by_role.items():
        if role != "shadow" and not route.is_quarantined(served.target):
            version = served.target.version
            listed.setdefault(version, Served(version=version, target=str(served.target), role=role))
    return tuple(listed.values())
