"""What the log says of an alert, read from messages of any kind."""

import pytest

from services.rollback_controller.adapters.log import concerns


def test_a_message_is_about_its_own_alert_only():
    body = b'{"data": {"alert_id": "a-1"}}'
    assert concerns(body, "a-1")
    assert not concerns(body, "a-2")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{not json",
        b"\xff\xfe\x00",
        b"[]",
        b"7",
        b"null",
        b'"text"',
        b"{}",
        b'{"data": null}',
        b'{"data": []}',
        b'{"data": "alert_id"}',
        b'{"data": {"alert_id": ["a-1"]}}',
        b"[" * 100_000,
    ],
    ids=range(13),
)
def test_what_cannot_be_read_is_about_no_alert_and_stops_nothing(body):
    assert not concerns(body, "a-1")
