"""What receivers are sent: bodies for Alertmanager, webhooks, Slack and PagerDuty. All texts may come from outside."""

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from services.notifier.domain.notices import Due
from services.notifier.domain.receivers import Kind
from services.notifier.domain.record import Notice, SilencedAlert

_SLACK_CHARS: Final = 2900
_SUMMARY_CHARS: Final = 1000
_PAGERDUTY_SEVERITY: Final = {"critical": "critical", "warning": "warning", "info": "info"}
_PAGERDUTY_ACTION: Final = {
    "raised": "trigger",
    "rollback_failed": "trigger",
    "acknowledged": "acknowledge",
    "resolved": "resolve",
}
_HEAD: Final = {
    "raised": "Raised",
    "rollback_failed": "No automatic rollback",
    "acknowledged": "Acknowledged",
    "resolved": "Resolved",
    "silence_ended": "Silence ended",
}


def message_id(due: Due) -> str:
    """Return the id of a notification: the same for each try, so that receivers can drop a second one."""
    what = f"{due.transition}/{due.notice.rollback_code}" if due.transition == "rollback_failed" else due.transition
    digest = sha256(f"{due.notice.key}/{what}/{due.receiver}".encode()).hexdigest()
    return f"msg_{digest[:32]}"


def group_id(notice: Notice) -> str:
    """Return what all notifications of one alert have in common."""
    return sha256(notice.key.encode()).hexdigest()[:32]


def body_of(kind: Kind, due: Due, *, now: datetime, resend_s: float, link: str, secret: str = "") -> Any:
    """Return the body for a kind of receiver, as JSON data.

    Args:
        kind: The kind.
        due: What is sent.
        now: The time.
        resend_s: How often an open alert is sent again to Alertmanager.
        link: Template of an address with `{alert_id}`; empty for none.
        secret: PagerDuty's routing key.
    """
    address = link.replace("{alert_id}", quote(due.notice.alert.alert_id, safe=""))
    if due.transition == "silence_ended":
        return silence_ended(kind, due, now, resend_s)
    if kind == "alertmanager":
        return alertmanager(due, now, resend_s, address)
    if kind == "slack":
        return slack(due, address)
    if kind == "pagerduty":
        return pagerduty(due, address, secret)
    return webhook(due, now, address)


def alertmanager(due: Due, now: datetime, resend_s: float, link: str) -> list[dict[str, Any]]:
    """Return an alert for Alertmanager's API v2, and another one if no automatic rollback follows from it.

    It ends by itself if it is not sent again for four periods: a notifier that is gone leaves no alert open for ever.
    """
    notice, alert = due.notice, due.notice.alert
    ends_at = notice.resolved_at or now + timedelta(seconds=4 * resend_s)
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
    annotations = {"summary": summary(notice), "description": alert.message, "runbook_url": alert.runbook}
    if notice.acknowledged_by:
        annotations["acknowledged_by"] = notice.acknowledged_by
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
    return [
        first,
        {**first, "labels": first["labels"] | failed, "annotations": first["annotations"] | because},
    ]


def webhook(due: Due, now: datetime, link: str) -> dict[str, Any]:
    """Return the payload of a webhook, with `type`, `timestamp` and `data` as Standard Webhooks recommends."""
    notice = due.notice
    return {
        "type": f"alert.{due.transition}",
        "timestamp": now.isoformat(),
        "data": {
            "id": group_id(notice),
            "summary": summary(notice),
            "alert": notice.alert.model_dump(mode="json", by_alias=True, exclude_none=True),
            "raised_at": notice.raised_at.isoformat(),
            "resolved_at": notice.resolved_at.isoformat() if notice.resolved_at else None,
            "acknowledged_by": notice.acknowledged_by or None,
            "acknowledged_because": notice.acknowledged_because or None,
            "rollback_code": notice.rollback_code,
            "rollback_reason": notice.rollback_reason or None,
            "link": link or None,
        },
    }


def slack(due: Due, link: str) -> dict[str, Any]:
    """Return a message for an incoming webhook of Slack; no text can mention people or hide an address."""
    notice, alert = due.notice, due.notice.alert
    head = f"{_HEAD[due.transition]} ({alert.severity}): {summary(notice)}"
    lines = [f"*{escape(head)}*", escape(alert.message)]
    if due.transition == "acknowledged":
        lines.append(escape(f"By {notice.acknowledged_by}. {notice.acknowledged_because}"))
    if alert.runbook:
        lines.append(escape(f"Runbook: {alert.runbook}"))
    if link:
        lines.append(f"<{link}|Details>")
    text = cut("\n".join(lines), _SLACK_CHARS)
    block = {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
    return {"text": cut(escape(head), _SLACK_CHARS), "blocks": [block], "unfurl_links": False}


def pagerduty(due: Due, link: str, routing_key: str) -> dict[str, Any]:
    """Return an event of PagerDuty's Events API v2; all events of an alert have one key, so that it is one incident."""
    notice, alert = due.notice, due.notice.alert
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": _PAGERDUTY_ACTION[due.transition],
        "dedup_key": group_id(notice),
    }
    if due.transition in ("raised", "rollback_failed"):
        event["payload"] = {
            "summary": cut(summary(notice), _SUMMARY_CHARS),
            "source": str(alert.target),
            "severity": _PAGERDUTY_SEVERITY[alert.severity],
            "timestamp": notice.raised_at.isoformat(),
            "component": alert.target.model,
            "group": "slipway",
            "class": alert.kind,
            "custom_details": {
                "alert_id": alert.alert_id,
                "message": alert.message,
                "value": alert.value,
                "limit": alert.limit,
                "runbook": alert.runbook,
                "rollback_failed": notice.rollback_reason,
            },
        }
        if link:
            event["links"] = [{"href": link, "text": "Details"}]
    return event


def silence_ended(kind: Kind, due: Due, now: datetime, resend_s: float) -> Any:
    """Return what a silence held back that is over, for a webhook, Slack or Alertmanager."""
    summary, model = due.notice.summaries[due.receiver], due.notice.alert.target.model
    what = "alert" if summary.count == 1 else "alerts"
    head = f"{model}: {summary.count} {what} began and ended within a silence"
    lines = [_silenced_line(alert) for alert in summary.alerts]
    if summary.count > len(lines):
        lines.append(f"and {summary.count - len(lines)} before them")
    if kind == "slack":
        text = cut("\n".join((f"*{escape(head)}*", *map(escape, lines))), _SLACK_CHARS)
        block = {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
        return {"text": cut(escape(head), _SLACK_CHARS), "blocks": [block], "unfurl_links": False}
    if kind == "alertmanager":
        labels = {"alertname": "SlipwaySilenceEnded", "environment": "production", "model": model, "severity": "info"}
        annotations = {"summary": head, "description": "\n".join(lines)}
        times = {"startsAt": now.isoformat(), "endsAt": (now + timedelta(seconds=4 * resend_s)).isoformat()}
        return [{"labels": labels, "annotations": annotations, **times}]
    listed = [alert.model_dump(mode="json", exclude={"receivers"}) for alert in summary.alerts]
    data = {"model": model, "summary": head, "count": summary.count, "alerts": listed}
    return {"type": "alert.silence_ended", "timestamp": now.isoformat(), "data": data}


def _silenced_line(alert: SilencedAlert) -> str:
    times = f"{alert.raised_at:%Y-%m-%d %H:%M} to {alert.resolved_at:%Y-%m-%d %H:%M} UTC"
    because = f"silenced by {alert.silenced_by}: {alert.silenced_because}"
    return " ".join(f"{times} ({alert.severity}) {alert.target}: {alert.name}. {alert.message} ({because})".split())


def summary(notice: Notice) -> str:
    """Return an alert in one line."""
    alert = notice.alert
    text = f"{alert.target}: {alert.trigger or alert.kind}. {alert.message}"
    if notice.rollback_code is not None:
        text = f"No automatic rollback: {notice.rollback_reason} {text}"
    return " ".join(text.split())


def escape(text: str) -> str:
    """Return a text as Slack shows it: `<` begins mentions and links there."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, most: int) -> str:
    """Return a text, shortened to so many characters; no escaped character is cut in two."""
    if len(text) <= most:
        return text
    kept = text[: most - 1]
    start = kept.rfind("&", len(kept) - 5)
    return (kept[:start] if start >= 0 and ";" not in kept[start:] else kept) + "…"
