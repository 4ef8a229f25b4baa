"""The command line runs the full release lifecycle: a tiny real model, every real service and server, the toy engine.

It is the first file of its folder: its first test needs a stack on which nothing was published.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clients.cli.connection import find_stack
from contracts.envelope import CONTENT_TYPE
from contracts.vocabulary import digest_of
from deploy.local.state import ADMIN
from shared.messaging.credentials import connect
from testbed.forked import run
from testbed.servers import wait_until
from tests.kit.wiring import ROOT

pytestmark = pytest.mark.real

FIRST = ("--context-tokens", "384", "--policy")
DATA = digest_of(b"the training data")
TRACE, JOB = "5" * 32, "6" * 16
"""The trace of the training job, and its span."""
POLICY = """
gates: [{metric: error_ratio, max_value: 0.5}]
load: {requests: 6, rate_rps: 4.0, output_tokens: 8, warmup_requests: 1}
rehearsal: not_required
triggers: [{name: errors, metric: error_ratio, threshold: 0.5, action: manual}]
"""


class Cli:
    """The command, on one stack."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __call__(self, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clients.cli.main", *arguments, "--state", str(self.state)]
        done = run(command, environment={**os.environ, **variables}, cwd=ROOT, timeout_s=280)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str):
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """A folder with a checkpoint, its base, a base of the same name with other weights, and a policy."""
    from testbed.models import tiny_base

    folder = tmp_path_factory.mktemp("models")
    tiny_base(folder / "other-llama", seed=7)
    for name, made in (("tiny-llama", "base"), ("lora", "one")):
        shutil.copytree(tiny[made], folder / name)
    (folder / "policy.yaml").write_text(POLICY)
    return folder


@pytest.fixture(scope="module")
def slipway(empty_stack):
    return Cli(empty_stack.state)


def publish(slipway, models, number, *more, code=0, **variables):
    """Publish an attempt of the checkpoint: after the first, nothing is merged or measured again."""
    return slipway(
        "publish",
        "--model",
        "tiny",
        "--base",
        "tiny-llama",
        "--adapter",
        str(models / "lora"),
        "--run-id",
        "run-1",
        "--attempt",
        str(number),
        "--data-hash",
        DATA,
        "--hyperparameter",
        "lr=0.001",
        "--eval",
        "tickets:accuracy=0.8",
        "--variant",
        "bf16",
        *more,
        code=code,
        **variables,
    )


def test_before_anything_was_published_every_command_says_what_to_do(slipway):
    assert "slipway base import" in slipway("base", "list").stdout
    assert "slipway publish" in slipway("status").stdout
    assert "slipway status" in slipway("routes", code=1).stderr
    assert "slipway status tiny" in slipway("versions", "tiny", code=1).stderr
    assert "does not exist" in slipway("ask", "tiny", "hello", code=1).stderr
    assert slipway("events").stdout == ""
    assert slipway("deadletters", "list").stdout == "no dead letters\n"
    assert "deadletters list" in slipway("deadletters", "show", "1", code=1).stderr


def test_a_base_model_is_imported_once(slipway, models):
    first = slipway.json("base", "import", str(models / "tiny-llama"))
    assert (first["name"], first["architecture"]) == ("tiny-llama", "LlamaForCausalLM")
    assert slipway.json("base", "import", str(models / "tiny-llama")) == first
    assert slipway.json("base", "list") == [first]
    taken = ("--name", "tiny-llama", "--revision", first["revision"])
    assert "another" in slipway("base", "import", str(models / "other-llama"), *taken, code=1).stderr


def test_a_checkpoint_travels_to_production_and_is_asked(slipway, models):
    traced_from = {"TRACEPARENT": f"00-{TRACE}-{JOB}-01"}
    published = publish(slipway, models, 1, *FIRST, str(models / "policy.yaml"), **traced_from)
    assert "slipway status tiny" in published.stdout
    shown = slipway("status", "tiny", "--follow", "--until", "finished", "--timeout", "200").stdout
    assert "✓ merged" in shown
    assert "promoted" in shown.splitlines()[-1]
    (route,) = slipway.json("routes")
    assert route["active"]["target"] == {"model": "tiny", "version": 1, "variant": "bf16"}
    assert (route["active"]["serving"]["context_tokens"], route["active"]["context_tokens"]) == (384, 384)
    answer = slipway.json("ask", "tiny", "hello", "--max-tokens", "4")
    assert answer["text"].strip()
    assert answer["system_fingerprint"].startswith("fp_tiny.v1.bf16.")
    traced = slipway.json("show", answer["system_fingerprint"])
    assert slipway("show", answer["system_fingerprint"][:-6] + "000000", code=1).stderr
    assert traced["manifest"]["training"]["data_hash"] == DATA
    assert traced["manifest"]["training"]["hyperparameters"] == {"lr": 0.001}
    assert [variant["variant"] for variant in traced["variants"]] == ["bf16"]
    assert traced["benchmarks"][0]["verdict"] == "pass"


def test_one_checkpoint_published_many_times_is_one_version(empty_stack):
    """The log shows it below: only three releases were ever opened."""

    async def publish_again():
        (event,) = empty_stack.events("checkpoint.ready", "tiny")
        client = await connect(find_stack(empty_stack.state).connection)
        for event_id in [event["id"]] * 4 + [f"again-{number}" for number in range(5)]:
            body = json.dumps({**event, "id": event_id}).encode()
            headers = {"Nats-Msg-Id": event_id, "content-type": CONTENT_TYPE}
            await client.jetstream().publish(f"slipway.checkpoint.ready.v1.tiny.{ADMIN}", body, headers=headers)
        await client.close()

    asyncio.run(publish_again())


def test_one_trace_leads_from_the_training_job_through_every_service_to_the_end_of_the_release(empty_stack):
    (finished,) = empty_stack.events("release.finished", "tiny")

    def spans_of_release():
        lines = (empty_stack.state / "logs" / "spans.jsonl").read_text().splitlines()
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
        return next((span for span in spans.values() if span["name"] == "release tiny"), None)

    whole = release_span(
        wait_until(complete, timeout_s=30, what="one trace through all services, each span under another")
    )
    assert whole["parent_id"] == f"0x{JOB}"
    assert whole["attributes"]["slipway.release_id"] == finished["correlationid"]
    steps = [step["name"] for step in whole["events"]]
    assert (steps[0], steps[-1]) == ("opened", "finished")
    facts = ("checkpoint.ready", "release.opened", "checkpoint.merged", "variant.quantised", "release.finished")
    traced = [event for fact in facts for event in empty_stack.events(fact, "tiny")[:1]]
    assert {event["traceparent"].split("-")[1] for event in traced} == {TRACE}
    assert len({event["type"] for event in traced}) == len(facts)


def test_the_version_shows_its_manifest_lineage_and_benchmark(slipway):
    text = slipway("show", "tiny@v1").stdout
    for expected in (
        "run-1",
        "context_tokens 384",
        DATA,
        "tickets accuracy 0.8",
        "lr=0.001",
        "ttft_ms.p95",
        "tiny-llama at ",
    ):
        assert expected in text
    rows = [line.split("\t") for line in text.splitlines()]
    (row,) = [row for row in rows if row[0] == "bf16"]
    assert (row[2:4], row[5:8], row[-1]) == (["x1.00", "x1.0000"], ["0.0000", "0.000", "1.000"], "chosen")
    assert "  bf16: The only one that passed." in text
    (variant,) = slipway.json("show", "tiny@v1")["variants"]
    assert (variant["variant"], variant["verdict"], variant["chosen"]) == ("bf16", "pass", True)
    (listed,) = slipway.json("versions", "tiny")
    assert (listed["manifest"]["version"], listed["serving"]) == (1, "active")
    assert listed["deployments"][0]["cause"] == "promote"
    assert slipway.json("show", "tiny@v1")["manifest"] == listed["manifest"]


def test_the_same_checkpoint_again_is_the_same_release(slipway, models):
    publish(slipway, models, 1, *FIRST, str(models / "policy.yaml"))
    (release,) = slipway.json("status", "tiny")
    assert (release["version"], release["outcome"]) == (1, "promoted")


def test_a_setting_that_no_engine_takes_is_refused_before_anything_is_published(slipway, models):
    refused = publish(slipway, models, 2, "--tool-parser", "herms", code=2).stderr
    assert "'herms' is not a parser of the engine; it has apertus, " in refused


def test_a_checkpoint_without_a_policy_is_refused_before_anything_is_published(slipway, models):
    assert "slipway policy init" in publish(slipway, models, 2, code=1).stderr


def awaits_approval(release):
    return any(step["name"] == "approved" and "waiting until" in step["detail"] for step in release["steps"])


def test_a_stored_policy_lets_the_next_version_in_when_a_person_approves_and_the_first_stays_behind_it(
    empty_stack, slipway, models
):
    manual = models / "manual.yaml"
    manual.write_text(POLICY + "promotion: {mode: manual}\n")
    slipway("policy", "set", "tiny", str(manual))
    assert slipway.json("policy", "show", "tiny")["rehearsal"] == "not_required"
    with ThreadPoolExecutor(1) as publisher:
        published = publisher.submit(publish, slipway, models, 2, "--wait")
        empty_stack.await_event("approval.requested", "tiny", timeout_s=200)
        wait_until(lambda: awaits_approval(slipway.json("status", "tiny")[-1]), what="the question for approval")
        slipway("approve", "tiny", "--reason", "looks right")
        assert "promoted" in published.result().stdout.splitlines()[-1]
    (route,) = slipway.json("routes", "tiny")
    assert (route["active"]["target"]["version"], route["previous"]["target"]["version"]) == (2, 1)
    assert (route["active"]["serving"], route["previous"]["serving"]["context_tokens"]) == (None, 384)
    assert len(slipway.json("versions", "tiny")) == 2
    assert [row.split("\t")[-1] for row in slipway("versions", "tiny").stdout.splitlines()[-2:]] == [
        "context_tokens 384",
        "-",
    ]


def test_a_release_is_cancelled_with_exit_code_3(empty_stack, slipway, models):
    publish(slipway, models, 3)
    *_, opened = empty_stack.await_event("release.opened", "tiny", count=3)
    release = opened["data"]["release_id"]
    slipway("cancel", release, "--reason", "wrong data")
    done = slipway("status", release, "--until", "finished", "--timeout", "120", code=3)
    assert "cancelled" in done.stdout.splitlines()[-1]


def test_the_log_is_whole_cloudevents(slipway):
    lines = [json.loads(line) for line in slipway("events", "tiny", "--json").stdout.splitlines()]
    assert {"specversion", "id", "source", "type", "data"} <= set(lines[0])
    types = [line["type"] for line in lines]
    assert [types.count(f"slipway.release.{step}.v1") for step in ("opened", "finished")] == [3, 3]
    assert len(slipway("events", "--limit", "3").stdout.splitlines()) == 3


def test_wrong_usage_ends_with_2_and_one_sentence(slipway, models):
    for arguments in (
        ("publish", "--model", "../x", "--base", "b", "--adapter", ".", "--run-id", "r", "--data-hash", DATA),
        ("base", "import"),
        ("show", "tiny"),
        ("show", "nonsense"),
        ("status", "--until", "lunch"),
        ("publish",),
    ):
        assert slipway(*arguments, code=2).stderr
    bad = publish(slipway, models, 1, "--policy", str(models / "lora" / "adapter_config.json"), code=2)
    assert "policy" in bad.stderr


def test_a_dead_letter_is_listed_shown_and_requeued(slipway):
    async def publish_nonsense():
        client = await connect(find_stack(slipway.state).connection)
        await client.jetstream().publish("slipway.release.cancelled.v1.tiny.admin", b"this is no JSON")
        await client.close()

    asyncio.run(publish_nonsense())
    letters = wait_until(lambda: slipway.json("deadletters", "list"), timeout_s=60, what="a dead letter")
    letter = letters[-1]
    assert (letter["service"], letter["code"], letter["body"]) == ("registry", "malformed_event", "this is no JSON")
    assert "what to do" in slipway("deadletters", "show", str(letter["sequence"])).stdout
    slipway("deadletters", "requeue", str(letter["sequence"]))
    again = wait_until(
        lambda: [newer for newer in slipway.json("deadletters", "list") if newer["sequence"] > letter["sequence"]],
        timeout_s=60,
        what="the same dead letter again",
    )
    assert again[0]["body"] == letter["body"]


def test_a_stack_that_is_not_there_ends_with_4(tmp_path):
    assert "slipway up" in Cli(tmp_path / "nothing")("status", code=4).stderr
