"""What receivers get: the forms that their APIs take, whatever text an alert has."""

import base64
import hmac
import json
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import AlertRaised
from services.notifier.domain import payloads, webhooks
from services.notifier.domain.notices import Due
from services.notifier.domain.record import Notice, SilencedAlert, Summary
from services.notifier.settings import NotifierSettings
from testbed import factories as f

HOSTILE = "<!channel> <https://evil.example|Click> & `code` *bold* \u202e\n```"
KINDS = ("alertmanager", "webhook", "slack", "pagerduty")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4000)


def due(transition="raised", message=HOSTILE, resolved_at=None, **changes):
    alert = f.fact(AlertRaised, **{"drill": None, "message": message, **changes})
    notice = Notice(
        alert=alert,
        raised_at=f.after(0),
        resolved_at=resolved_at,
        acknowledged_by="jonas",
        acknowledged_because=message,
    )
    return Due(notice, "chat", transition)


def body(kind, sent, link="https://slipway.example/alerts/{alert_id}"):
    return payloads.body_of(kind, sent, now=f.after(10), resend_s=60.0, link=link, secret="R0UT1NG")


def test_slack_can_mention_nobody_and_hide_no_address():
    for transition in ("raised", "rollback_failed", "acknowledged", "resolved"):
        text = body("slack", due(transition))["blocks"][0]["text"]["text"]
        assert text.count("<") == 1, "our own link is the only one"
        assert "&lt;!channel&gt;" in text


@given(TEXTS, st.sampled_from(["raised", "rollback_failed", "acknowledged", "resolved"]))
def test_no_text_breaks_a_message_of_slack(message, transition):
    sent = body("slack", due(transition, message), link="")
    for text in (sent["text"], sent["blocks"][0]["text"]["text"]):
        assert 0 < len(text) <= 3000
        assert "<" not in text
        assert ">" not in text
        assert all(part.startswith(("amp;", "lt;", "gt;")) for part in text.split("&")[1:])


@pytest.mark.parametrize("kind", KINDS)
@given(message=TEXTS)
def test_every_body_is_json(kind, message):
    assert json.loads(json.dumps(body(kind, due(message=message)))) is not None


def test_all_events_of_an_alert_are_one_incident():
    sent = [body("pagerduty", due(transition)) for transition in ("raised", "acknowledged", "resolved")]
    assert [event["event_action"] for event in sent] == ["trigger", "acknowledge", "resolve"]
    assert len({event["dedup_key"] for event in sent}) == 1
    assert sent[0]["routing_key"] == "R0UT1NG"
    assert len(sent[0]["payload"]["summary"]) <= 1024
    assert sent[0]["payload"]["severity"] in ("critical", "error", "warning", "info")


def test_the_id_is_that_of_the_transition_and_the_receiver():
    ids = {payloads.message_id(due(transition)) for transition in ("raised", "resolved")}
    assert len(ids) == 2
    assert payloads.message_id(due()) == payloads.message_id(due(message="newer figures"))


def test_an_open_alert_ends_by_itself_if_it_is_not_sent_again():
    (open_alert,) = body("alertmanager", due())
    assert open_alert["endsAt"] == f.after(10 + 4 * 60).isoformat()
    (ended,) = body("alertmanager", due("resolved", resolved_at=f.after(30)))
    assert ended["endsAt"] == f.after(30).isoformat()
    assert ended["labels"] == open_alert["labels"], "else it would be another alert"
    assert all(isinstance(value, str) and value for value in open_alert["labels"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_rollback_is_said_with_its_reason_and_ends_with_its_alert(kind):
    sent = due("rollback_failed")
    failed = {"rollback_code": "no_previous_target", "rollback_reason": "Nothing to go back to <!channel>."}
    sent = replace(sent, notice=sent.notice.model_copy(update=failed))
    text = json.dumps(body(kind, sent))
    assert "Nothing to go back to" in text
    if kind == "slack":
        assert "<!channel>" not in text
        assert "No automatic rollback" in text
    if kind == "alertmanager":
        first, second = body(kind, sent)
        assert first["labels"] == body(kind, due())[0]["labels"], "else it would be another alert"
        assert (second["labels"]["alertname"], second["endsAt"]) == ("SlipwayRollbackFailed", first["endsAt"])
    later = sent.notice.model_copy(update={"rollback_code": "suspended"})
    assert payloads.message_id(sent) != payloads.message_id(replace(sent, notice=later))


def silenced(number, message=HOSTILE):
    return SilencedAlert(
        alert_id=f"a{number}",
        target=f.fact(AlertRaised).target,
        name="slow",
        severity="warning",
        message=message,
        raised_at=f.after(number),
        resolved_at=f.after(number + 5),
        silenced_by="ada",
        silenced_because=message,
    )


@pytest.mark.parametrize("count", [1, 3, 60, 1000])
def test_a_summary_says_what_a_silence_held_back(count):
    sent = due("silence_ended")
    alerts = tuple(silenced(number) for number in range(count))
    sent = replace(
        sent, notice=sent.notice.model_copy(update={"summaries": {"chat": Summary(count=count, alerts=alerts[-20:])}})
    )
    text = body("slack", sent)["blocks"][0]["text"]["text"]
    assert f"{count} alert" in text
    assert "<!channel>" not in text
    assert len(text) <= 3000
    hook = body("webhook", sent)
    assert (hook["type"], hook["data"]["count"]) == ("alert.silence_ended", count)
    assert hook["data"]["alerts"][-1]["alert_id"] == f"a{count - 1}"
    assert len(hook["data"]["alerts"]) == min(count, 20)
    (manager,) = body("alertmanager", sent)
    assert manager["labels"]["alertname"] == "SlipwaySilenceEnded"
    assert manager["endsAt"] > manager["startsAt"]
    assert ("before them" in manager["annotations"]["description"]) == (count > 20)


def test_a_link_cannot_be_left_by_the_name_of_an_alert():
    address = body("webhook", due(alert_id="a/../../b?x=1#y"))["data"]["link"]
    assert address == "https://slipway.example/alerts/a%2F..%2F..%2Fb%3Fx%3D1%23y"


def test_a_signature_is_that_of_the_specification():
    """The example of the specification's own libraries."""
    key = webhooks.parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    sent = webhooks.headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_during_a_rotation_both_keys_sign():
    keys = [b"a" * 32, b"b" * 32]
    sent = webhooks.headers(keys, "msg_1", 7, b"{}")
    expected = [base64.b64encode(hmac.new(key, b"msg_1.7.{}", sha256).digest()).decode() for key in keys]
    assert sent["webhook-signature"] == " ".join(f"v1,{each}" for each in expected)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_%%%", "whsec_" + base64.b64encode(b"short").decode()])
def test_what_is_no_secret_is_refused(text):
    with pytest.raises(ValueError, match="a secret of a webhook"):
        webhooks.parse_secret(text)


def test_notifications_link_to_the_console_unless_another_address_is_named():
    assert NotifierSettings(console_url="https://console.example/").alert_link == (
        "https://console.example/alerts/{alert_id}"
    )
    named = NotifierSettings(console_url="https://console.example", link="https://pages.example/{alert_id}")
    assert named.alert_link == "https://pages.example/{alert_id}"
    assert NotifierSettings().alert_link == ""
