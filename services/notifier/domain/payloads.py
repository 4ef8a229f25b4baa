"""Bodies for Alertmanager, webhooks and Slack, and their signatures. Texts may come from outside."""

import base64
import binascii
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from services.notifier.domain.notices import Notice, Transition

_HEAD_CHARS, _MESSAGE_CHARS = 150, 300
"""Together with runbook and link below the 3,000 characters of a block of Slack, though each may be escaped as five."""
ENDS: Final = timedelta(minutes=5)
"""How long Alertmanager keeps an open alert that is not sent again."""
_HEAD: Final = {"raised": "Raised", "rollback_failed": "No automatic rollback", "resolved": "Resolved"}
_PREFIX: Final = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64


def message_id(notice: Notice, transition: Transition, receiver: str) -> str:
    """Return the id of a notification, the same for each attempt, so that receivers can drop duplicates."""
    return f"msg_{_digest(f'{_group(notice)}/{notice.key_of(transition)}/{receiver}')}"


def body_of(kind: str, notice: Notice, transition: Transition, *, now: datetime, console_url: str) -> Any:
    """Return the body for a kind of receiver, as JSON data; it links to the alert in the console if that is known."""
    page = f"{console_url.rstrip('/')}/alerts/{quote(notice.alert.alert_id, safe='')}" if console_url else ""
    return CHANNELS[kind].body(notice, transition, now, page)


def _group(notice: Notice) -> str:
    return f"{notice.alert.alert_id}@{notice.raised_at.isoformat()}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


def _alertmanager(notice: Notice, _transition: Transition, now: datetime, link: str) -> list[dict[str, Any]]:
    """Return an alert for Alertmanager's API v2, and a second one if it leads to no automatic rollback.

    It ends by itself if it is not sent again for `ENDS`: a notifier that is gone leaves no alert open for ever.
    """
    alert = notice.alert
    ends_at = notice.resolved_at or now + ENDS
    labels = {
        "alertname": "SlipwayAlert",
        "alert_id": alert.alert_id,
        "environment": "production",
        "kind": alert.kind,
        "model": alert.target.model,
        "severity": alert.severity,
        "target": str(alert.target),
        "trigger": alert.trigger or "",
    }
    annotations = {"summary": _summary(notice), "description": alert.message, "runbook_url": alert.runbook}
    first: dict[str, Any] = {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": notice.raised_at.isoformat(),
        "endsAt": ends_at.isoformat(),
        **({"generatorURL": link} if link else {}),
    }
    if notice.rollback_code is None:
        return [first]
    failed = {"alertname": "SlipwayRollbackFailed", "code": notice.rollback_code, "severity": "critical"}
    because = {"description": notice.rollback_reason}
    return [first, {**first, "labels": first["labels"] | failed, "annotations": first["annotations"] | because}]


def _webhook(notice: Notice, transition: Transition, now: datetime, link: str) -> dict[str, Any]:
    """Return the payload of a webhook, with `type`, `timestamp` and `data` as Standard Webhooks recommends."""
    return {
        "type": f"alert.{transition}",
        "timestamp": now.isoformat(),
        "data": {
            "id": _digest(_group(notice)),
            "summary": _summary(notice),
            "alert": notice.alert.model_dump(mode="json", by_alias=True, exclude_none=True),
            "raised_at": notice.raised_at.isoformat(),
            "resolved_at": notice.resolved_at.isoformat() if notice.resolved_at else None,
            "rollback_code": notice.rollback_code,
            "rollback_reason": notice.rollback_reason or None,
            "link": link or None,
        },
    }


def _slack(notice: Notice, transition: Transition, _now: datetime, link: str) -> dict[str, Any]:
    """Return a message for an incoming webhook of Slack; no text can mention people or hide an address."""
    alert = notice.alert
    head = _escape(f"{_HEAD[transition]} ({alert.severity}): {_summary(notice)}", _HEAD_CHARS)
    lines = [f"*{head}*", _escape(alert.message, _MESSAGE_CHARS)]
    if alert.runbook:
        lines.append(_escape(f"Runbook: {alert.runbook}", _HEAD_CHARS))
    if link:
        lines.append(f"<{link}|Details>")
    block = {"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(lines), "verbatim": True}}
    return {"text": head, "blocks": [block], "unfurl_links": False}


@dataclass(frozen=True)
class Channel:
    """A kind of receiver.

    Attributes:
        body: The body as JSON data, from a notice, its transition, the time, and a link, which may be empty.
        path: What its address ends with.
        signed: It has secrets, and gets a signature by each.
        repeated: An open alert is sent again, because the receiver ends what is not.
    """

    body: Callable[[Notice, Transition, datetime, str], Any]
    path: str = ""
    signed: bool = False
    repeated: bool = False


CHANNELS: Final = {
    "alertmanager": Channel(_alertmanager, path="/api/v2/alerts", repeated=True),
    "webhook": Channel(_webhook, signed=True),
    "slack": Channel(_slack),
}


def _summary(notice: Notice) -> str:
    """Return an alert in one line."""
    alert = notice.alert
    text = f"{alert.target}: {alert.trigger or alert.kind}. {alert.message}"
    if notice.rollback_code is not None:
        text = f"No automatic rollback: {notice.rollback_reason} {text}"
    return " ".join(text.split())


def _escape(text: str, most: int) -> str:
    """Return a text cut to `most` characters and escaped for Slack, where `<` begins mentions and links."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def parse_secret(text: str) -> bytes:
    """Return the key in a secret of Standard Webhooks, `whsec_` and Base64; raise ValueError if it is none."""
    try:
        key = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        msg = "a secret of a webhook is `whsec_` and Base64"
        raise ValueError(msg) from error
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        msg = f"a secret of a webhook has {len(key)} bytes, and must have {_LEAST_BYTES} to {_MOST_BYTES}"
        raise ValueError(msg)
    return key


def signed_headers(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook with a signature by each key, during a rotation two (standardwebhooks.com)."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    signatures = (base64.b64encode(hmac.new(key, signed, sha256).digest()).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
