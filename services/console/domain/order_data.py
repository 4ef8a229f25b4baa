"""Data of orders for pages: effect and outcome. Pure."""

from typing import Literal

from services.console.domain.alert_data import ChainStep
from services.console.domain.screens import Screen, Time


class RollbackPlan(Screen):
    """The effect of a rollback now; `refused` holds code and reason if the rollback would be refused."""

    model: str
    failed: str
    epoch: int
    refused: dict[str, str] | None
    active_before: str | None = None
    active_after: str | None = None
    aborts_canary: str | None = None
    ends_shadow: str | None = None
    previous_after: str | None = None
    quarantined_after: tuple[str, ...] = ()


class OrderAnswer(Screen):
    """The outcome of an order after a few seconds."""

    order_id: str
    state: Literal["published", "accepted", "started", "completed", "failed", "refused"]
    code: str | None = None
    reason: str = ""


class Followed(Screen):
    """An order with its effects so far.

    Attributes:
        what: Its type, such as `rollback.ordered`; `order` until the log has it.
        chain: Steps of the rollback that it caused, from the order on.
        restored: The target that the rollback made active; None until completed.
        serves: The target that serves the model now.
        verdict: Verdict on the recovery; None until known.
    """

    answer: OrderAnswer
    what: str
    by: str
    why: str
    chain: tuple[ChainStep, ...]
    restored: str | None
    serves: str | None
    verdict: str | None


class Quarantine(Screen):
    """A quarantined target: it is not promoted and takes no traffic.

    Attributes:
        since: Start of the quarantine; None if it precedes the log.
        by: The identity that caused it.
        because: The reason.
        link: Path of the page about the cause.
    """

    target: str
    since: Time | None
    by: str
    because: str
    link: str | None
