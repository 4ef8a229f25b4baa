"""How long an order from the command line counts, and what is refused before it is published."""

from datetime import timedelta

import pytest

from clients.cli.commands.orders import EXPIRES, expires_at, order
from clients.cli.output import CommandError
from contracts import facts as f
from contracts.codes import ADVICE
from decisions.rollback.orders import ORDER_AGE
from shared.runtime.clock import SystemClock
from testbed.factories import fact


def test_an_order_is_valid_for_15_minutes_by_default():
    before = SystemClock().now()
    assert before + ORDER_AGE <= expires_at(EXPIRES) <= SystemClock().now() + ORDER_AGE
    assert before + timedelta(hours=2) <= expires_at("2h")


@pytest.mark.parametrize("text", ["25h", "7d"])
def test_no_order_is_valid_for_more_than_a_day(text):
    with pytest.raises(CommandError, match="the limit is 24h"):
        expires_at(text)


def test_a_reason_that_is_too_long_is_refused_with_the_message_of_the_services():
    with pytest.raises(CommandError) as caught:
        order("oscar", "support-bot", None, fact(f.RollbackOrdered, reason="x" * 2049))
    assert str(caught.value) == f"reason has 2,049 characters; the limit is 2,048. {ADVICE['too_large']}"
