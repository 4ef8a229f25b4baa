"""The full rollback lifecycle on the embedded stack: rehearsal, canary, regression, moved, suspended, decided."""

import asyncio
import json
import shutil
import time

import httpx
import pytest

from clients.cli.connection import find_stack
from contracts.envelope import CONTENT_TYPE
from contracts.services import OPTIONAL, SERVICES
from shared.messaging.credentials import connect
from testbed.monitoring import PrometheusServer, dashboard_queries, require
from testbed.servers import running, wait_until
from testbed.stack import POLICY
from testbed.users import Users

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
]
MODEL = "bot"
AUTOMATIC = {"min_requests": 10, "alpha": 0.01, "action": "automatic", "window_s": 5}
WITH_ROLLBACK = {
    **POLICY,
    "rehearsal": "required",
    "canary": {"steps": [0.4], "min_requests": 20, "beta": 0.9, "deadline_s": 240},
    "triggers": [
        {"name": "slow", "metric": "ttft_ms", "threshold": 2500, "allowed_ratio": 0.1, **AUTOMATIC},
        {"name": "errors", "metric": "error_ratio", "threshold": 0.05, **AUTOMATIC},
    ],
}


def route_of(stack):
    return stack.route(MODEL)


@pytest.fixture(scope="module")
def stack(module_stack):
    return module_stack(MONITOR_UPDATE_EVERY_S="2", ROLLBACK_CONTROLLER_VERIFY_S="10")


@pytest.fixture(scope="module", autouse=True)
def _scraped(stack, tmp_path_factory):
    """A Prometheus that scrapes the stack from its start, where there is one."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    parts = {part["name"]: part for part in stack.table()["parts"] if part["name"] in SERVICES}
    targets = {name: part.get("admin_port") or part["port"] for name, part in parts.items()}
    with running(PrometheusServer(tmp_path_factory.mktemp("metrics"), program, targets)) as server:
        yield server


@pytest.fixture
def prometheus(_scraped):
    require("prometheus", "prometheus")
    return _scraped


def gateway(stack) -> str:
    return f"http://127.0.0.1:{stack.part('gateway')['port']}"


def suspended_of(stack):
    return [held["served"]["target"]["version"] for held in route_of(stack).get("suspended", [])]


def regress(stack, version=2):
    """Let a version answer late until its traffic has moved."""
    stack.ok("drill", MODEL, "--fault", "delay_ms=4000", "--share", "0.9", "--for", "120s", "--reason", "test")
    wait_until(lambda: route_of(stack)["active"]["target"]["version"] == 1, timeout_s=90, what="version 1 being active")
    stack.ok("drill", MODEL, "--target", f"{MODEL}.v{version}.bf16", "--stop", "--reason", "over")


def test_from_rehearsal_to_suspension(stack, tiny):
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", policy=WITH_ROLLBACK)
    stack.promoted(MODEL)
    (rehearsed,) = stack.events("rehearsal.completed", MODEL)
    certificates = rehearsed["data"]["certificates"]
    assert [certificate["trigger"] for certificate in certificates] == ["slow", "errors"]
    alerts = {event["id"]: event for event in stack.events("alert.raised", MODEL, "staging")}
    routes = {event["id"]: event for event in stack.events("deployment.changed", MODEL, "staging")}
    shown = stack.ok("events", MODEL, "--environment", "staging", "--json").splitlines()
    assert {*alerts, *routes} <= {alert["id"] for alert in map(json.loads, shown)}
    assert stack.ask_json("routes", MODEL) == [route_of(stack)]
    for certificate in certificates:
        assert alerts[certificate["alert_event_id"]]["data"]["trigger"] == certificate["trigger"]
        assert routes[certificate["route_event_id"]]["data"]["cause"] == "rollback"
        assert 0 < certificate["detect_s"] < 60
    assert stack.events("alert.raised", MODEL) == [], "a rehearsal raises no alert in production"
    assert staging_route_is_empty(stack)
    verified = stack.ask_json("verify", f"{MODEL}@v1")
    assert verified["verified"], verified
    proven = {finding["what"] for finding in verified["findings"] if finding["verdict"] == "proven"}
    assert {"version manifest", "variant bf16", "merged model, files", "base model tiny-llama, files"} <= proven
    assert any(what.startswith("benchmark") for what in proven)

    same_weights = ("--attempt", "2", "--context-tokens", "384")  # merged and measured already
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", *same_weights, policy=WITH_ROLLBACK)
    with Users(gateway(stack), stack.headers, MODEL) as users:
        stack.promoted(MODEL)
        assert [event["data"]["verdict"] for event in stack.events("canary.assessed", MODEL)][-1] == "pass"
        assert route_of(stack)["active"]["target"]["version"] == 2
        _, second = stack.events("rehearsal.completed", MODEL)
        assert [certificate["detected_with"] for certificate in second["data"]["certificates"]] == [1, 1]
        regress(stack)
        stack.await_event("rollback.completed", MODEL)
    assert users.failed == [], "no request was lost"
    assert set(users.answered) == {f"{MODEL}@v1", f"{MODEL}@v2"}
    (back,) = stack.events("rollback.completed", MODEL)
    assert (back["data"]["verdict"], back["data"]["mode"]) == ("pass", "automatic")
    (alert,) = stack.events("alert.raised", MODEL)
    assert alert["data"]["drill"], "a drill is labelled everywhere"
    assert (suspended_of(stack), route_of(stack)["quarantined"]) == ([2], [])
    assert route_of(stack)["suspended"][0]["cause"] == alert["data"]["message"]


def staging_route_is_empty(stack) -> bool:
    headers = {"x-slipway-environment": "staging", **stack.headers}
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 2}
    answer = httpx.post(f"{gateway(stack)}/v1/completions", json=body, headers=headers, timeout=30, trust_env=False)
    return answer.status_code == 503


QUIET = {
    "Endpoints that do not serve a target, and return",
    "Failed requests by code",
    "Requests that the fallback answers after a failure",
    "Requests under which an engine died",
    "Second attempts, slow readers",
    "Telemetry lost",
    "Variants that failed",
}
"""Panels that show nothing where nothing went wrong."""
QUIET_HERE = {
    "Copies by target",
    "Drift by feature",
    "Mirror",
    "Notifications",
    "Pairs: requests that two versions answer",
    "Quantisation, p95",
    "Shadows: requests that a candidate is asked unseen",
}
"""Drift takes more requests than this story has, bf16 takes no quantisation, the policy asks for neither a shadow nor
copies, and neither receivers nor registries are configured."""


def test_prometheus_and_the_dashboards_tell_the_story(stack, prometheus):
    """Every query of every dashboard, against a Prometheus that has scraped the stack since its start."""
    now_s = time.time()
    wait_until(lambda: prometheus.query(f"min(timestamp(up)) > {now_s}"), what="a scrape of every part")
    empty = set()
    for title, query in dashboard_queries():
        if not prometheus.query(query.replace("$__rate_interval", "10m").replace("$model", MODEL)):
            empty.add(title)
    assert empty <= QUIET | QUIET_HERE
    assert [sample["value"][1] for sample in prometheus.query("sum(up)")] == [str(len(SERVICES) - len(OPTIONAL))]
    by_outcome = prometheus.query('sum by (outcome) (slipway_rollbacks_total{environment="production"}) > 0')
    assert [(sample["metric"]["outcome"], sample["value"][1]) for sample in by_outcome] == [("pass", "1")]
    shares = prometheus.query("slipway_gateway_route_share_ratio == 1")
    assert [sample["metric"]["target"] for sample in shares] == [f"{MODEL}.v1.bf16"]
    ((_, detect_s),) = [
        s["value"] for s in prometheus.query('slipway_rollback_seconds_sum{environment="production",stage="detect"}')
    ]
    (alert,) = stack.events("alert.raised", MODEL)
    assert float(detect_s) > 0.0
    assert alert["data"]["drill"]


def registry_of(stack):
    """Return the settings of the bus with the registry's key: nobody else gives its orders."""
    admin = find_stack(stack.state).connection
    return admin.model_copy(update={"nats_credentials": admin.nats_credentials.with_name("registry.nk")})


async def publish_again(stack, orders, *, epoch) -> None:
    """Publish traffic orders again under other ids: as they were, and as if they had been given for the route of now."""
    client = await connect(registry_of(stack))
    js = client.jetstream()
    for number, order in enumerate(orders):
        for kind, data in (("late", order["data"]), ("fresh", {**order["data"], "epoch": epoch})):
            event_id = f"{kind}-{number}"
            headers = {"Nats-Msg-Id": event_id, "content-type": CONTENT_TYPE}
            body = json.dumps({**order, "id": event_id, "data": data}).encode()
            await js.publish(f"slipway.traffic.requested.v1.{MODEL}.registry", body, headers=headers)
    await client.close()


def test_what_was_left_stays_suspended_through_restarts_and_late_orders(stack):
    before = route_of(stack)
    for name in ("server-manager", "registry", "rollback-controller", "gateway"):
        stack.kill(name)
    assert route_of(stack) == before
    late = [
        event for event in stack.events("traffic.requested", MODEL) if event["data"]["target"]["target"]["version"] == 2
    ]
    asyncio.run(publish_again(stack, late, epoch=before["epoch"]))
    refused = stack.await_event("promotion.refused", MODEL, count=2 * len(late))
    assert {event["data"]["code"] for event in refused} == {"suspended"}
    assert route_of(stack) == before
    assert "v1" in stack.ok("ask", MODEL, "hello", "--max-tokens", "4")


def test_a_person_lets_what_was_suspended_return_as_a_canary_and_a_second_move_suspends_it_again(stack):
    with Users(gateway(stack), stack.headers, MODEL) as users:
        assert "returns as a canary" in stack.ok("rollback", "return", MODEL, "--reason", "it was a drill")
        *_, opened = stack.await_event("release.opened", MODEL, count=3)
        stack.promoted(MODEL)
        back = route_of(stack)
        assert (back["active"]["target"]["version"], back["previous"]["target"]["version"]) == (2, 1)
        assert (suspended_of(stack), back["quarantined"]) == ([], [])
        shares = [
            event
            for event in stack.events("traffic.requested", MODEL)
            if event["correlationid"] == opened["data"]["release_id"]
        ]
        assert [event["data"]["weight_ratio"] for event in shares] == [0.4, 1.0]
        regress(stack)
    assert users.failed == []
    assert suspended_of(stack) == [2]
    stack.ok("rollback", "confirm", MODEL, "--reason", "it is slow")
    assert suspended_of(stack) == []
    assert [quarantined["version"] for quarantined in route_of(stack)["quarantined"]] == [2]
    refused = stack.slipway("rollback", "return", MODEL, "--reason", "again")
    assert refused.returncode != 0
    assert "no version of bot is suspended" in refused.stderr + refused.stdout


def test_no_rollback_goes_to_a_quarantined_version(stack):
    assert stack.slipway("rollback", MODEL, "--to", "2", "--reason", "try", "--dry-run").returncode != 0
