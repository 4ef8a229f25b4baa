"""The notifier as a process on a real bus: alerts reach a real Alertmanager and others, whatever these answer."""

import base64
import hmac
from hashlib import sha256

import pytest

from contracts import facts as f
from shared.messaging.bus import publish_event
from testbed import factories as k
from testbed.monitoring import AlertmanagerServer, require
from testbed.servers import running
from tests.integration.notifier_process import SECRET, alert, event, hook, notifier, until
from tests.kit.receivers import ReceiverServer


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory):
    program = require("prometheus-alertmanager", "prometheus-alertmanager")
    with running(AlertmanagerServer(tmp_path_factory.mktemp("alerts"), program)) as server:
        yield server


@pytest.fixture
def receiver():
    with ReceiverServer() as server:
        yield server


def ended(raised):
    return f.AlertResolved.model_validate(raised.model_dump(by_alias=True))


def alert_ids(received):
    return {each.data["data"]["alert"]["alert_id"] for each in received}


def types(received):
    return [each.data["type"] for each in received]


async def test_a_real_alertmanager_has_the_alert_while_it_is_open(js, bus_settings, alertmanager):
    raised = alert(message='hostile "text" \n<b>&')
    with notifier(bus_settings, [{"name": "manager", "kind": "alertmanager", "url": alertmanager.url}]):
        await publish_event(js, event(raised))
        (active,) = await until(alertmanager.alerts, "the alert being active")
        assert active["labels"]["severity"] == "critical"
        assert active["annotations"]["description"] == raised.message
        first = active["endsAt"]
        await until(lambda: alertmanager.alerts()[0]["endsAt"] > first, "the alert being sent again")
        failed = k.fact(f.RollbackFailed).model_copy(update={"alert_id": raised.alert_id})
        await publish_event(js, event(failed))
        await until(
            lambda: "No automatic rollback" in alertmanager.alerts()[0]["annotations"]["summary"], "the failed rollback"
        )
        await publish_event(js, event(ended(raised)))
        await until(lambda: not alertmanager.alerts(), "the alert having ended")


async def test_what_happened_while_it_was_down_is_sent(js, bus_settings, receiver):
    over, open_ = alert("over/1"), alert("open/1")
    for fact in (over, open_, ended(over)):
        await publish_event(js, event(fact))
    await publish_event(js, event(alert("staging/bot/1"), environment="staging"))
    await publish_event(js, event(alert("drill/1", drill="drill-3")))
    with notifier(bus_settings, [hook(receiver)]) as process:
        await until(lambda: "open/1" in alert_ids(receiver.received), "the alert that is open being sent")
        process.kill()
        process.start()
        await publish_event(js, event(ended(open_)))
        await until(lambda: types(receiver.received).count("alert.resolved") >= 2, "both ends")
    assert alert_ids(receiver.received) == {"open/1", "over/1"}, "never staging, never a drill"
    for alert_id in ("open/1", "over/1"):
        sent = [each.data["type"] for each in receiver.received if each.data["data"]["alert"]["alert_id"] == alert_id]
        assert sent == sorted(sent), "raised, then resolved"


async def test_a_receiver_that_misbehaves_gets_all_in_order_and_delays_no_other(js, bus_settings, receiver):
    receiver.answers = ["hang", "redirect", 500, "huge"]
    with ReceiverServer() as good, notifier(bus_settings, [hook(receiver), hook(good, "good")]):
        raised = alert()
        await publish_event(js, event(raised))
        await until(lambda: good.received, "the other receiver being told")
        assert len(receiver.received) <= 1, "the first attempt is still without an answer"
        await publish_event(js, event(ended(raised)))
        await until(lambda: "alert.resolved" in types(receiver.received), "the end", timeout_s=60)
    assert receiver.at("/elsewhere") == [], "a redirect is not followed"
    raised_ones, (last,) = receiver.received[:-1], receiver.received[-1:]
    assert types(raised_ones) == ["alert.raised"] * 5
    assert len({each.headers["webhook-id"] for each in raised_ones}) == 1, "the same id at each try"
    signed = f"{last.headers['webhook-id']}.{last.headers['webhook-timestamp']}.".encode() + last.body
    expected = base64.b64encode(hmac.new(SECRET, signed, sha256).digest()).decode()
    assert last.headers["webhook-signature"] == f"v1,{expected}"
