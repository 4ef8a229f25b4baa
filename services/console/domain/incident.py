"""Data of the incident banner for the person on call. Pure."""

from typing import Literal

from services.console.domain.screens import Screen, Time


class Incident(Screen):
    """A regression, a rollback or an ended release, with its cause and the serving version.

    Attributes:
        key: Key for its acknowledgement.
        title: The event and its version.
        why: The reason given by its alert, order or release.
        serves: The serving version; empty if traffic did not move.
        link: Path of the page about it.
        failed: The target to roll back; empty if no action is left.
        acknowledged: Author and time; empty if not acknowledged.
    """

    key: str
    model: str
    at: Time
    tone: Literal["bad", "busy"]
    title: str
    why: str
    serves: str = ""
    link: str
    runbook: str = ""
    failed: str = ""
    acknowledged: str = ""
