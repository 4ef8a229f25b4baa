"""The incident banner for the person on call. Pure."""

from typing import Literal

from services.console.domain.screens import Screen, Time


class Incident(Screen):
    """A regression, a rollback or an ended release: what happened, what serves, and why.

    Attributes:
        key: What an acknowledgement names.
        title: What happened to which version.
        why: Why, in the words of its alert, order or release.
        serves: What serves now; empty if what happened moved no traffic.
        link: The path of the screen that shows it.
        failed: The target to roll back; empty if nothing is left to do.
        acknowledged: By whom and when; empty until then.
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
