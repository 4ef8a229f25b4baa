"""The data of orders on pages: their effect, and their outcome. Pure."""

from typing import Literal

from services.console.domain.alert_data import ChainStep
from services.console.domain.screens import Screen, Time


class RollbackPlan(Screen):
    """The effect of a rollback now; `refused` has the code and the reason if it would be refused."""

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
    """An order as far as its effect is known.

    Attributes:
        what: Its type, such as `rollback.ordered`; `order` until the log has it.
        chain: The steps of the rollback that it caused, from the order on.
        restored: What the rollback made active; None until it is completed.
        serves: What serves the model now.
        verdict: The verdict on the recovery; None until it is known.
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
    """A quarantined target: it cannot be promoted or take traffic until the quarantine is lifted.

    Attributes:
        since: When it was quarantined; None if the log does not go back so far.
        by: Who or what quarantined it, and `because` why; `link` is the path of the screen that shows it.
    """

    target: str
    since: Time | None
    by: str
    because: str
    link: str | None


class LiftPlan(Screen):
    """The effect of lifting a quarantine now; `refused` has the code and the reason if it would be refused."""

    model: str
    target: str
    epoch: int
    refused: dict[str, str] | None
    quarantined_after: tuple[str, ...] = ()
