import json

from clients.cli.commands.replay import COLUMNS, report, row, would
from contracts.policy import Trigger
from decisions.replay.engine import replay
from testbed.factories import after
from tests.unit.cli.recordings import ERRORS, SLOW, changed, minutes

LONG_AGO = after(-86_400)
ROUTE = [changed(1, -3600, 1), changed(2, -1800, 2, 1)]
REGRESSION = [*ROUTE, *minutes(0, 10), *minutes(600, 5, failed=30)]


def test_a_replayed_alert_is_a_row():
    (fired,) = replay([ERRORS], REGRESSION, since=LONG_AGO).fired
    cells = row(fired)
    assert len(cells) == len(COLUMNS)
    assert cells[1:] == (
        "support-bot.v2.bf16",
        "errors",
        "30 of 60, 2 % allowed",
        "rolled back to support-bot.v1.bf16",
    )


def test_the_consequence_is_one_phrase():
    manual = ERRORS.model_copy(update={"action": "manual"})
    (held,) = replay([manual], REGRESSION, since=LONG_AGO).fired
    assert would(held) == "manual: The policy declares errors as manual: an operator decides."
    (back,) = replay([ERRORS], REGRESSION, since=LONG_AGO).fired
    assert would(back) == "rolled back to support-bot.v1.bf16"


def test_the_report_is_plain_json():
    triggers = (ERRORS, SLOW, Trigger(name="drift", metric="drift", threshold=0.2))
    result = replay(triggers, REGRESSION, since=LONG_AGO)
    data = json.loads(json.dumps(report("support-bot", result, triggers), allow_nan=False))
    assert (data["windows"], data["requests"], data["triggers"]) == (15, 900, {"errors": 1, "slow": 0, "drift": 0})
    assert data["not_replayed"][0]["trigger"] == "drift"
    (fired,) = data["fired"]
    assert (fired["trigger"], fired["outcome"], fired["to"]) == ("errors", "rolled back", "support-bot.v1.bf16")
