import pytest

from clients.cli.commands.drill import drill, drill_line
from clients.cli.output import CommandError, Exit
from contracts import facts as f
from contracts.drills import Drill
from testbed.factories import after, target


def a_drill(**changes):
    whole = {
        "drill_id": "d-1",
        "target": target(7),
        "environment": "staging",
        "fault": f.DrillFault(delay_ms=800),
        "share_ratio": 0.5,
        "starts_at": after(0),
        "expires_at": after(60),
        "actor": "jonas",
        "reason": "quarterly",
    }
    return Drill(**(whole | changes))


def test_a_drill_line_has_fault_share_target_end_author_and_reason(snapshot):
    assert drill_line(a_drill(), 42.0) == snapshot


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": True, "fault": ["garble"]}, "exclude each other"),
        ({"fault": ["garble"], "share": 0.0}, "--share 0 is not valid"),
        ({"fault": ["garble"], "share": 90.0}, r"write 0\.9 for 90 %"),
        ({"fault": ["garble"], "lasting": "2h"}, "--for 2h is too long: the limit is 1 h 0 min"),
        ({"fault": ["garble"], "lasting": "soon"}, "the duration 'soon' is not valid"),
        ({"fault": ["noise"]}, "the fault 'noise' is not valid"),
        ({"fault": ["garble"], "target": "other.v1.int8"}, "belongs to other, not to support-bot"),
    ],
)
def test_a_wrong_order_is_refused_before_anything_is_published(options, message, monkeypatch):
    monkeypatch.setenv("SLIPWAY_NATS_URL", "nats://127.0.0.1:1")
    with pytest.raises(CommandError, match=message) as refused:
        drill(model="support-bot", **options)
    assert refused.value.code is Exit.USAGE
