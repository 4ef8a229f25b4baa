"""The incident banner for the person on call. Pure."""

from typing import Literal

from services.console.domain.screens import Screen, Time


class Incident(Screen):
    """A regression, a rollback or an ended release, with its cause and the serving version.

    Attributes:
        key: Key of an acknowledgement.
        title: The event and its version.
        why: The reason as in its alert, order or release.
        serves: The serving version; empty if no traffic was moved.
        link: The path of the screen that shows it.
        failed: The target to roll back; empty if nothing is left to do.
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
