"""What receivers get: the forms that their APIs take, whatever text an alert has."""

import base64
import hmac
import json
from hashlib import sha256
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import AlertRaised, RollbackFailed
from services.notifier.domain import payloads
from services.notifier.domain.notices import Kind, Notice
from testbed import factories as f

HOSTILE = "<!channel> <https://evil.example|Click> & `code` *bold* \u202e\n```"
KINDS = get_args(Kind)
TRANSITIONS = ("raised", "rollback_failed", "resolved")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4000)


def notice_of(message=HOSTILE, resolved_at=None, failed=None, **changes):
    alert = f.fact(AlertRaised, **{"drill": None, "message": message, **changes})
    rollback = f.fact(RollbackFailed, **failed) if failed else None
    return Notice(alert=alert, resolved_at=resolved_at, rollback=rollback)


def body(kind, notice, transition="raised", console_url="https://slipway.example/"):
    return payloads.body_of(kind, notice, transition, now=f.after(10), console_url=console_url)


def test_slack_can_mention_nobody_and_hide_no_address():
    for transition in TRANSITIONS:
        text = body("slack", notice_of(), transition)["blocks"][0]["text"]["text"]
        assert text.count("<") == 1, "our own link is the only one"
        assert "&lt;!channel&gt;" in text


@given(TEXTS, st.sampled_from(TRANSITIONS))
def test_no_text_breaks_a_message_of_slack(message, transition):
    sent = body("slack", notice_of(message), transition, console_url="")
    for text in (sent["text"], sent["blocks"][0]["text"]["text"]):
        assert 0 < len(text) <= 3000
        assert "<" not in text
        assert ">" not in text
        assert all(part.startswith(("amp;", "lt;", "gt;")) for part in text.split("&")[1:])


@pytest.mark.parametrize("kind", KINDS)
@given(message=TEXTS)
def test_every_body_is_json(kind, message):
    assert json.loads(json.dumps(body(kind, notice_of(message=message)))) is not None


def test_the_id_is_that_of_the_transition_and_the_receiver():
    ids = {payloads.id_of(notice_of(), transition, "chat") for transition in ("raised", "resolved")}
    assert len(ids | {payloads.id_of(notice_of(), "raised", "pager")}) == 3
    assert payloads.id_of(notice_of("newer figures"), "raised", "chat") in ids


def test_an_open_alert_ends_by_itself_if_it_is_not_sent_again():
    (open_alert,) = body("alertmanager", notice_of())
    assert open_alert["endsAt"] == (f.after(10) + payloads.ENDS).isoformat()
    (ended,) = body("alertmanager", notice_of(resolved_at=f.after(30)), "resolved")
    assert ended["endsAt"] == f.after(30).isoformat()
    assert ended["labels"] == open_alert["labels"], "else it would be another alert"
    assert all(isinstance(value, str) and value for value in open_alert["labels"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_rollback_is_said_with_its_reason(kind):
    failed = {"code": "no_previous_target", "reason": "Nothing to go back to <!channel>."}
    sent = body(kind, notice_of(failed=failed), "rollback_failed/no_previous_target")
    assert "No automatic rollback: Nothing to go back to" in json.dumps(sent)
    if kind == "slack":
        assert "<!channel>" not in json.dumps(sent)
    if kind == "alertmanager":
        assert sent[0]["labels"] == body(kind, notice_of())[0]["labels"], "else it would be another alert"


def test_a_link_leads_to_the_console_and_cannot_be_left_by_the_name_of_an_alert():
    address = body("webhook", notice_of(alert_id="a/../../b?x=1#y"))["data"]["link"]
    assert address == "https://slipway.example/alerts/a%2F..%2F..%2Fb%3Fx%3D1%23y"
    assert body("webhook", notice_of(), console_url="")["data"]["link"] is None


def test_a_signature_is_that_of_the_specification():
    """The example of the specification's own libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    sent = payloads.signed_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_during_a_rotation_both_keys_sign():
    keys = [b"a" * 32, b"b" * 32]
    secrets = ["whsec_" + base64.b64encode(key).decode() for key in keys]
    sent = payloads.signed_headers(secrets, "msg_1", 7, b"{}")
    expected = [base64.b64encode(hmac.new(key, b"msg_1.7.{}", sha256).digest()).decode() for key in keys]
    assert sent["webhook-signature"] == " ".join(f"v1,{each}" for each in expected)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_%%%", "whsec_" + base64.b64encode(b"short").decode()])
def test_what_is_no_secret_is_refused(text):
    with pytest.raises(ValueError, match="a secret of a webhook"):
        payloads.parse_secret(text)
