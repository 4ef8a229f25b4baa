"""Versions follow the order of admission, one checkpoint is one version, and each release meets the one before it."""

import json

import psutil
import pytest

from clients.cli.connection import find_stack
from contracts.envelope import CONTENT_TYPE
from deploy.local.state import ADMIN
from shared.messaging.credentials import connect
from testbed.servers import wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


async def publish_again(stack, model: str, *, ids: list[str]) -> None:
    """Publish the checkpoint of a model again, under other event ids, straight on the bus."""
    (event,) = stack.events("checkpoint.ready", model)[:1]
    client = await connect(find_stack(stack.state).connection)
    js = client.jetstream()
    for event_id in ids:
        body = json.dumps({**event, "id": event_id}).encode()
        headers = {"Nats-Msg-Id": event_id, "content-type": CONTENT_TYPE}
        await js.publish(f"slipway.checkpoint.ready.v1.{model}.{ADMIN}", body, headers=headers)
    await client.close()


TRACE, JOB = "5" * 32, "6" * 16
"""The trace of the training job, and its span."""


async def test_one_checkpoint_published_many_times_is_one_version(stack, tiny):
    variables = {"TRACEPARENT": f"00-{TRACE}-{JOB}-01"}
    stack.publish("parrot", tiny["one"], "--variant", "bf16", variables=variables)
    (event,) = stack.await_event("checkpoint.ready", "parrot")
    await publish_again(stack, "parrot", ids=[event["id"]] * 4)
    stack.promoted("parrot")
    await publish_again(stack, "parrot", ids=[f"again-{number}" for number in range(5)])
    stack.publish("marker", tiny["two"], "--variant", "bf16")  # admitted after all of them
    stack.await_event("release.opened", "marker")
    stack.ok("cancel", "marker", "--reason", "it was admitted")
    assert len(stack.events("release.opened", "parrot")) == 1
    assert len(stack.events("version.registered", "parrot")) == 1
    assert len(stack.events("release.finished", "parrot")) == 1


def test_one_trace_leads_from_the_training_job_through_every_service_to_the_end_of_the_release(stack):
    (finished,) = stack.events("release.finished", "parrot")

    def spans_of_release():
        lines = (stack.state / "logs" / "spans.jsonl").read_text().splitlines()
        spans = {span["context"]["span_id"].removeprefix("0x"): span for span in map(json.loads, lines)}
        return {own: span for own, span in spans.items() if span["context"]["trace_id"] == f"0x{TRACE}"}

    expected = {f"slipway-{name}" for name in ("registry", "merger", "quantiser", "server-manager", "benchmarker")}

    def complete():
        spans = spans_of_release()
        services = {span["resource"]["attributes"]["service.name"] for span in spans.values()}
        ended = any("release.finished" in span["name"] for span in spans.values())
        known = parents_of(spans) <= {*spans, JOB}  # every span has a parent in the trace; the job's is not ours
        return spans if services >= expected and ended and known and release_span(spans) else None

    def parents_of(spans):
        return {(span["parent_id"] or "").removeprefix("0x") for span in spans.values()}

    def release_span(spans):
        return next((span for span in spans.values() if span["name"] == "release parrot"), None)

    whole = release_span(
        wait_until(complete, timeout_s=30, what="one trace through all services, each span under another")
    )
    assert whole["parent_id"] == f"0x{JOB}"
    assert whole["attributes"]["slipway.release_id"] == finished["correlationid"]
    steps = [step["name"] for step in whole["events"]]
    assert (steps[0], steps[-1]) == ("opened", "finished")
    facts = ("checkpoint.ready", "release.opened", "checkpoint.merged", "variant.quantised", "release.finished")
    traced = [event for fact in facts for event in stack.events(fact, "parrot")]
    assert {event["traceparent"].split("-")[1] for event in traced} == {TRACE}
    assert len({event["type"] for event in traced}) == len(facts)


def quantising(stack, variant: str) -> psutil.Process | None:
    """Find the child process that makes a variant."""
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "quantise_worker" in command and variant in command and str(stack.state) in command:
            return process
    return None


@pytest.mark.full
def test_versions_follow_admission_even_when_the_second_quantises_first(stack, tiny):
    stack.publish("racer", tiny["one"], "--variant", "int8")
    held = wait_until(lambda: quantising(stack, "int8"), timeout_s=120, what="the first release quantising")
    held.suspend()  # forced: the first waits in mid-quantisation while the second overtakes it
    try:
        stack.publish("racer", tiny["two"], "--variant", "bf16")
        (second,) = stack.await_event("version.registered", "racer")
    finally:
        held.resume()
    finished = stack.await_event("release.finished", "racer", count=2, timeout_s=240)

    opened = stack.events("release.opened", "racer")
    assert [(event["data"]["version"], event["data"]["variants"]) for event in opened] == [(1, ["int8"]), (2, ["bf16"])]
    assert second["data"]["version"] == 2
    assert [event["data"]["version"] for event in stack.events("version.registered", "racer")] == [2, 1]
    outcomes = {event["data"]["version"]: event["data"]["outcome"] for event in finished}
    assert outcomes == {2: "promoted", 1: "superseded"}  # an older version never replaces a newer one
    (route,) = [listed for listed in stack.ask_json("routes") if listed["model"] == "racer"]
    assert route["active"]["target"]["version"] == 2
