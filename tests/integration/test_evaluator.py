"""The evaluator as a process of its own: real bus, real store, real Triton with the toy engine."""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path

import httpx
import pytest

from contracts.envelope import Event
from contracts.evaluations import Evaluations
from contracts.facts import VariantEvaluated, VariantFailed, VariantStaged, VersionEvaluated
from contracts.manifests import EvaluationReport
from contracts.routes import Route
from contracts.services import EVENTS
from services.evaluator.domain.report import summarise
from shared.messaging.bus import publish_event
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories
from testbed.attesters import attester_variables
from testbed.gateway import load_toy
from testbed.ports import free_port
from testbed.released import release
from testbed.servers import Server, bus_variables, running, store_variables
from testbed.values import deployable, staging_request

pytestmark = pytest.mark.real
ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"prompt": f"QUESTION {number}", "slice": f"s{number % 2}"} for number in range(40)]
WORDS = {
    "name": "words",
    "scorers": [{"kind": "regex", "pattern": "[a-z]"}],
    "bounds": [{"max_drop": 0.2}],
    "max_tokens": 8,
}


class EvaluatorService(Server):
    """`python -m services.evaluator.main` with its environment."""

    name = "evaluator"

    def __init__(self, folder, settings):
        super().__init__(folder)
        self.port = free_port()
        self.variables = {
            **bus_variables(settings, self.name),
            **store_variables(settings, self.name),
            "SLIPWAY_HTTP_PORT": str(self.port),
            "SLIPWAY_STATE_DIR": str(self.folder),
            **attester_variables(self.folder, "services.evaluator.main"),
        }

    def command(self):
        return [sys.executable, "-m", "services.evaluator.main"]

    def environment(self):
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}

    def ready(self):
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def store(js, settings, tmp_path):
    with running(EvaluatorService(tmp_path, settings)):
        yield Store(settings)


def put_rows(store, rows=ROWS):
    data = "\n".join(map(json.dumps, rows)).encode()
    return store.create(f"checkpoints/bot/{uuid.uuid4().hex}.jsonl", data)


async def stage(js, store, triton, rows, *, purpose="evaluation", model=None, schedule=None, **toy):
    model = model or f"bot-{uuid.uuid4().hex[:8]}"
    api = json.dumps({"model": model, "fingerprint": "fp_bot"})
    sides = [load_toy(triton, model, version, api=api, **more) for version, more in ((2, toy), (1, {}))]
    request = staging_request(
        purpose=purpose,
        candidate=deployable(2, "bf16", model),
        baseline=deployable(1, "bf16", model),
        evaluation=rows,
        evaluations=Evaluations.model_validate({"sets": [WORDS], "schedule": schedule}),
    )
    staged = factories.fact(VariantStaged, candidate=sides[0], baseline=sides[1], request=request)
    event = factories.event(staged, id=str(uuid.uuid4()), subject=model)
    await publish_event(js, event)
    return event


async def answers(js, fact, model, count=1):
    async with asyncio.timeout(60 * count):
        while True:
            info = await js.stream_info(EVENTS, subjects_filter=f"{fact.TYPE}.{model}.>")
            if sum((info.state.subjects or {}).values()) >= count:
                break
            await asyncio.sleep(0.05)
    subscription = await js.pull_subscribe(f"{fact.TYPE}.{model}.>", stream=EVENTS)
    messages = await subscription.fetch(count, timeout=5)
    await subscription.unsubscribe()
    return [Event[fact].model_validate_json(message.data) for message in messages]


async def test_a_candidate_is_asked_beside_its_baseline_once(js, store, triton):
    event = await stage(js, store, triton, put_rows(store))
    (evaluated,) = await answers(js, VariantEvaluated, event.subject)
    assert (evaluated.data.verdict, evaluated.causationid) == ("pass", event.id), evaluated.data.reason
    report = EvaluationReport.model_validate_json(store.get(evaluated.data.report))
    assert [summarise(result) for result in report.results] == list(evaluated.data.results)
    assert len(report.results[0].rows) == report.results[0].asked <= len(ROWS)
    await publish_event(js, event.model_copy(update={"id": str(uuid.uuid4())}))
    again = await answers(js, VariantEvaluated, event.subject, count=2)
    assert {each.data.report.digest for each in again} == {evaluated.data.report.digest}


@pytest.mark.parametrize("fault", ["mute_text", "template_fails_text"])
async def test_a_candidate_whose_answers_are_empty_or_rejected_fails(js, store, triton, fault):
    event = await stage(js, store, triton, put_rows(store), **{fault: "QUESTION"})
    (evaluated,) = await answers(js, VariantEvaluated, event.subject)
    assert evaluated.data.verdict == "fail"
    whole = next(score for score in evaluated.data.results[0].scores if not score.slice)
    assert (whole.candidate, whole.active) == (0.0, 1.0)


async def test_a_set_without_rows_fails_the_variant_and_other_purposes_are_ignored(js, store, triton):
    ignored = await stage(js, store, triton, put_rows(store), purpose="benchmark")
    event = await stage(js, store, triton, put_rows(store, [{"text": "plain"}]))
    (failed,) = await answers(js, VariantFailed, event.subject)
    assert (failed.data.step, failed.data.code) == ("evaluate", "evaluation_invalid")
    info = await js.stream_info(EVENTS, subjects_filter=f"{VariantEvaluated.TYPE}.{ignored.subject}.>")
    assert not info.state.subjects


async def test_a_version_that_became_worse_after_its_release_is_found(js, store, triton, tmp_path):
    model = f"bot-{uuid.uuid4().hex[:8]}"
    policy = factories.policy(
        triggers=(factories.trigger(name="worse", metric="evaluation_drop", threshold=0.1),),
        evaluations={"sets": [WORDS], "schedule": {"every_hours": 0.01}},
    )
    folder = tmp_path / EvaluatorService.name
    await asyncio.to_thread(release, store, folder, model, 2, policy=policy.model_dump(mode="json"))
    event = await stage(js, store, triton, put_rows(store), model=model, schedule={})
    (evaluated,) = await answers(js, VariantEvaluated, model)
    assert evaluated.data.results[0].asked == len(ROWS), "so that there is enough to compare"
    active = load_toy(triton, model, 2, api=json.dumps({"model": model}), mute_text="QUESTION")
    route = Route(model=model, epoch=1, active=active, previous=event.data.baseline)
    await Bucket(js, "routes", Route).create(model, route)
    (found,) = await answers(js, VersionEvaluated, model)
    (check,) = found.data.checks
    assert (check.target, check.is_fallen, check.in_a_row) == (active.target, True, 1)
    assert "words: regex is lower by 1.000" in found.data.message
