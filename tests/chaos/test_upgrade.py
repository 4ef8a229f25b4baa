"""An upgrade rolls, service by service, under traffic and with a release half way; a downgrade is refused.

The next version is this one with a declared change (`tests.kit.other_version`): every record has the next number and one
more field, every event and every request to the engine one more field. With the variable UPGRADE_FROM, a commit or tag, the
upgrade is from that to this version, and no downgrade is tried: nothing says that a record has changed.
"""

import json
import os
import signal

import pytest

from contracts.version import VERSION
from shared.runtime.exits import NEWER_RECORDS
from testbed.servers import wait_until
from testbed.stack import POLICY, ROOT
from tests.kit.other_version import NEXT, checkout, make_next
from tests.kit.rolling_stack import Callers, RollingStack, SecondGateway

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]
MODEL = "bot"
MANUAL = {**POLICY, "promotion": {"mode": "manual"}}
REPLICAS = ("registry=2", "server-manager=2")


FROM = os.environ.get("UPGRADE_FROM")
downgrading = pytest.mark.skipif(FROM is not None, reason="UPGRADE_FROM may be of records like these")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return checkout(FROM, tmp_path_factory.mktemp("before")) if FROM else ROOT


@pytest.fixture(scope="module")
def following(tmp_path_factory):
    return ROOT if FROM else make_next(tmp_path_factory.mktemp("next"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory, tiny, before):
    arguments = [text for each in REPLICAS for text in ("--replicas", each)]
    with RollingStack(tmp_path_factory.mktemp("stack") / "state", before, *arguments) as stack:
        stack.ok("base", "import", str(tiny["base"]))
        stack.publish(MODEL, tiny["one"], "--variant", "bf16")
        stack.promoted(MODEL)
        yield stack


@pytest.fixture(scope="module")
def gateway(stack, before, tmp_path_factory):
    gateway = SecondGateway(stack, tmp_path_factory.mktemp("gateway"))
    gateway.run_from(before)
    yield gateway
    gateway.stop()


def versions_finding(stack):
    findings = json.loads(stack.slipway("doctor", "--quick", "--json").stdout)["findings"]
    return next(finding for finding in findings if finding["check"] == "versions")


def test_services_are_replaced_one_by_one_under_traffic_with_a_release_half_way(stack, gateway, following, tiny):
    first = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Callers([first, gateway.url], stack.headers, MODEL) as callers:
        stack.publish(MODEL, tiny["two"], "--variant", "bf16", policy=MANUAL)
        stack.await_event("release.opened", MODEL, count=2)
        stack.replace("rollback-controller", checkout=following)
        stack.replace("server-manager-2", checkout=following)
        stack.replace("server-manager", checkout=following)
        if not FROM:
            mixed = versions_finding(stack)
            assert mixed["state"] == "warning"
            assert f"{NEXT}: rollback-controller, server-manager, server-manager-2" in mixed["detail"]
        stack.replace("registry-2", "merger", "quantiser", "benchmarker", checkout=following)
        stack.replace("registry", "monitor", "console", "agent", checkout=following)
        gateway.run_from(following)
        stack.replace("gateway", checkout=following)
        assert set(stack.versions().values()) == {VERSION if FROM else NEXT}
        stack.await_event("approval.requested", MODEL)
        stack.ok("approve", MODEL, "--reason", "after the upgrade")
        stack.promoted(MODEL)
        assert stack.route(MODEL)["active"]["target"]["version"] == 2
        wait_until(lambda: callers.answered[f"{MODEL}@v2"], timeout_s=30, what="answers of version 2")
        stack.ok("rollback", MODEL, "--to", "1", "--reason", "a person says so")
        stack.await_event("rollback.completed", MODEL)
        assert stack.route(MODEL)["active"]["target"]["version"] == 1
    assert callers.failed == []
    assert set(callers.by_gateway) == {first, gateway.url}
    for name in ("release.opened", "release.finished"):
        assert len(stack.events(name, MODEL)) == 2, name
    assert [event["data"]["outcome"] for event in stack.events("release.finished", MODEL)] == ["promoted"] * 2
    assert stack.ask_json("deadletters", "list") == []
    assert stack.check_artifacts() > 0


@downgrading
def test_an_older_service_refuses_the_newer_records_and_leaves_them_to_the_newer_one(stack, following):
    stack.assign("registry", ROOT)
    os.kill(stack.part("registry")["pid"], signal.SIGKILL)
    end = f"exit code {NEWER_RECORDS}"
    wait_until(lambda: end in stack.part("registry")["ended"], timeout_s=60, what="the refusal of the older registry")
    log = stack.log_of("registry").read_text()
    assert "A newer version of registry wrote" in log
    assert f"and registry {VERSION} reads versions up to" in log
    assert stack.part("registry")["state"] != "ready"
    stack.assign("registry", following)
    wait_until(lambda: stack.part("registry")["state"] == "ready", timeout_s=60, what="the newer registry again")


@downgrading
def test_slipway_up_of_an_older_version_says_so_and_ends(stack):
    stack.down()
    for part in stack.table()["parts"]:
        stack.assign(part["name"], ROOT)
    code, output = stack.try_up()
    assert code == 1, output
    assert "does not run (exit code 65: a newer version wrote its records" in output
    assert "restore a backup of before the upgrade" in output
    assert stack.table()["phase"] == "stopped"
