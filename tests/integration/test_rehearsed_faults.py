"""The fault of every trigger that can be rehearsed, on rehearsal traffic: real gateway, real Triton (toy engine)."""

from typing import get_args

import httpx
import pytest

from contracts.policy import Trigger
from contracts.routes import Route
from contracts.trigger_metrics import METRICS, TriggerMetric
from decisions.evidence.triggers import observe
from services.rollback_controller.adapters.gateway import STAGING, GatewayFlow
from services.rollback_controller.domain.rehearsal_plan import plan_fault
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from tests.integration.gateway_process import put_drill, put_route, telemetry

pytestmark = pytest.mark.real
THRESHOLDS = {
    "ttft_ms": 200.0,
    "itl_ms": 30.0,
    "e2e_ms": 500.0,
    "queue_ms": 200.0,
    "goodput_ratio": 0.95,
    "output_tokens": 100.0,
    "logprob_mean": -2.0,
}
TRIGGERS = tuple(
    Trigger(name=metric.replace("_", "-"), metric=metric, threshold=THRESHOLDS.get(metric, 0.05))
    for metric in get_args(TriggerMetric)
    if METRICS[metric].fault
)
SHORT = Trigger(name="short", metric="output_tokens", threshold=4.0, bound="lower")
BODY = GatewayFlow(None, "toy", rps=1.0, tokens=8).body | {"prompt": "Explain what a list is."}


@pytest.fixture(scope="module")
def toy(triton):
    return load_toy(triton, "toy", 1, token_delay_ms="2")


async def test_every_trigger_finds_the_answers_of_its_rehearsal_bad_and_healthy_ones_not(
    nats_server, js, tmp_path, toy
):
    declared = (*TRIGGERS, SHORT)
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path))) as gateway:
        await put_route(js, gateway, Route(model="toy", epoch=1, active=toy), "staging-routes")
        async with httpx.AsyncClient(
            base_url=gateway.base_url, headers={**STAGING, **gateway.headers}, timeout=30
        ) as client:
            response = await client.post("/v1/completions", json=BODY)
            assert response.status_code == httpx.codes.OK, response.text
            healthy = response.headers["x-request-id"]
            drilled = {}
            for trigger in declared:
                name = f"drill-{trigger.name}"
                fault = plan_fault(trigger).model_dump()
                await put_drill(js, gateway, toy, environment="staging", drill_id=name, fault=fault)
                response = await client.post("/v1/completions", json=BODY)
                assert response.headers["x-slipway-drill"] == name
                drilled[trigger] = response.headers["x-request-id"]
        records, _ = await telemetry(js, 1 + len(declared), "staging")
    by_id = {record.request_id: record for record in records}
    assert {trigger.name for trigger in declared if observe(trigger, by_id[healthy], declared)} == set()
    unseen = {trigger.name for trigger in declared if observe(trigger, by_id[drilled[trigger]], declared) is not True}
    assert unseen == set()
