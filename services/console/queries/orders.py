"""Query of an order's outcome: its answers, and the rollback that it caused."""

from typing import Final

from contracts.envelope import short_type
from services.console.domain.order_data import Followed, OrderAnswer
from services.console.domain.people import ORDERS
from services.console.queries.alerts import chain_of
from services.console.queries.reading import Reader

_ORDERS: Final = {short_type(order.TYPE) for order in ORDERS.values()}
_ANSWERS: Final = {
    "order.accepted": "accepted",
    "order.refused": "refused",
    "rollback.started": "started",
    "rollback.completed": "completed",
    "rollback.failed": "failed",
}


def answer_to(reader: Reader, order_id: str) -> OrderAnswer | None:
    """Return an order's outcome; None until one is known."""
    entries = reader.read(
        "SELECT type, title FROM events WHERE about = ? UNION ALL "
        "SELECT 'rollback.' || state AS type, coalesce(code || ': ' || reason, reason, '') AS title "
        "FROM rollbacks WHERE cause_id = ?",
        (order_id, order_id),
    )
    known = [(state, entry["title"]) for entry in entries if (state := _ANSWERS.get(entry["type"]))]
    if not known:
        return None
    state, text = known[-1]
    code, _, reason = text.partition(": ") if state in ("refused", "failed") else ("", "", text)
    return OrderAnswer.model_validate({"order_id": order_id, "state": state, "code": code or None, "reason": reason})


def followed(reader: Reader, model: str, order_id: str) -> Followed | None:
    """Return an order with its effects so far; None if the ID belongs to another event.

    An order that is not indexed yet is returned as `published`.
    """
    ordered = reader.read("SELECT * FROM events WHERE id = ? AND model = ?", (order_id, model))
    if ordered and ordered[0]["type"] not in _ORDERS:
        return None
    rollbacks = reader.read("SELECT * FROM rollbacks WHERE cause_id = ? AND model = ?", (order_id, model))
    active = reader.read("SELECT active FROM routes WHERE model = ?", (model,))
    answer = answer_to(reader, order_id) if ordered else None
    done = [entry for entry in rollbacks if entry["state"] == "completed"]
    return Followed(
        answer=answer or OrderAnswer(order_id=order_id, state="published"),
        what=ordered[0]["type"] if ordered else "order",
        by=ordered[0]["sender"] if ordered else "",
        why=ordered[0]["title"] if ordered else "",
        chain=chain_of(rollbacks[0], ordered[0]["at"]) if ordered and rollbacks else (),
        restored=done[0]["target"] if done else None,
        serves=active[0]["active"] if active else None,
        verdict=done[0]["verdict"] if done else None,
    )
