"""Bodies for Alertmanager, webhooks and Slack, and their signatures. Texts may come from outside."""

import base64
import binascii
import hmac
from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from services.notifier.domain.notices import Kind, Notice

_HEAD_CHARS, _MESSAGE_CHARS = 150, 300
"""Together with runbook and link below the 3,000 characters of a block of Slack, though each may be escaped as five."""
ENDS: Final = timedelta(minutes=5)


def id_of(notice: Notice, *parts: str) -> str:
    """Return the id of a notice, or with the transition and the receiver that of a notification, whatever the try."""
    text = "/".join((f"{notice.alert.alert_id}@{notice.alert.raised_at.isoformat()}", *parts))
    return sha256(text.encode()).hexdigest()[:32]


def _alertmanager(notice: Notice, _transition: str, now: datetime, link: str) -> list[dict[str, Any]]:
    """Return an alert for Alertmanager's API v2, which ends by itself if it is not sent again for `ENDS`."""
    alert = notice.alert
    labels = {
        "alertname": "SlipwayAlert",
        "alert_id": alert.alert_id,
        "kind": alert.kind,
        "model": alert.target.model,
        "severity": alert.severity,
        "target": str(alert.target),
        "trigger": alert.trigger or "",
    }
    annotations = {"summary": _summary(notice), "description": alert.message, "runbook_url": alert.runbook}
    return [
        {
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {name: value for name, value in annotations.items() if value},
            "startsAt": alert.raised_at.isoformat(),
            "endsAt": (notice.resolved_at or now + ENDS).isoformat(),
            "generatorURL": link,
        }
    ]


def _webhook(notice: Notice, transition: str, now: datetime, link: str) -> dict[str, Any]:
    """Return the payload of a webhook, with `type`, `timestamp` and `data` as Standard Webhooks recommends."""
    about = notice.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"sent"})
    data = {"id": id_of(notice), "summary": _summary(notice), "link": link or None, **about}
    return {"type": f"alert.{transition}", "timestamp": now.isoformat(), "data": data}


def _slack(notice: Notice, transition: str, _now: datetime, link: str) -> dict[str, Any]:
    """Return a message for an incoming webhook of Slack; no text can mention people or hide an address."""
    alert = notice.alert
    head = _escape(f"{transition.replace('_', ' ').capitalize()} ({alert.severity}): {_summary(notice)}", _HEAD_CHARS)
    runbook = _escape(f"Runbook: {alert.runbook}", _HEAD_CHARS) if alert.runbook else ""
    lines = [f"*{head}*", _escape(alert.message, _MESSAGE_CHARS), runbook, f"<{link}|Details>" if link else ""]
    text = {"type": "mrkdwn", "text": "\n".join(filter(None, lines)), "verbatim": True}
    return {"text": head, "blocks": [{"type": "section", "text": text}], "unfurl_links": False}


def body_of(kind: Kind, notice: Notice, transition: str, *, now: datetime, console_url: str) -> Any:
    """Return the body for a kind of receiver, as JSON data; it links to the alert in the console if that is known."""
    page = f"{console_url.rstrip('/')}/alerts/{quote(notice.alert.alert_id, safe='')}" if console_url else ""
    body = {"alertmanager": _alertmanager, "webhook": _webhook, "slack": _slack}[kind]
    return body(notice, transition.partition("/")[0], now, page)


def _summary(notice: Notice) -> str:
    """Return an alert in one line."""
    alert = notice.alert
    text = f"{alert.target}: {alert.trigger or alert.kind}. {alert.message}"
    if notice.rollback is not None:
        text = f"No automatic rollback: {notice.rollback.reason} {text}"
    return " ".join(text.split())


def _escape(text: str, most: int) -> str:
    """Return a text cut to `most` characters and escaped for Slack, where `<` begins mentions and links."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def parse_secret(text: str) -> bytes:
    """Return the key in a secret of Standard Webhooks; raise ValueError if it is none."""
    try:
        key = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError("a secret of a webhook is `whsec_` and 24 to 64 bytes in Base64")
    return key


def signed_headers(secrets: Iterable[str], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook with a signature by each secret, during a rotation two (standardwebhooks.com)."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    digests = (hmac.digest(parse_secret(secret), signed, sha256) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }
