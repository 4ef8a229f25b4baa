"""Versions that serve, with the reports of their releases, for the evaluator's schedule."""

import json
from datetime import timedelta

from contracts.facts import VariantStaged
from contracts.vocabulary import ArtifactRef, digest_of
from decisions.scorers.answers import Answer
from services.evaluator.app import Evaluator
from services.evaluator.evaluate import Asking
from services.evaluator.served import ServedEvaluations
from shared.errors import Permanent, Transient
from testbed import factories as f
from testbed.values import deployable, staging_request
from tests.kit.fakes_serving import FakeClock

ROWS = [{"prompt": f"row {number}", "expected": "right"} for number in range(200)]
SET = {"name": "mine", "scorers": [{"kind": "equals"}, {"kind": "length"}], "max_rows": 200}
POLICY = f.policy(
    triggers=(f.trigger(), f.trigger(name="worse", metric="evaluation_drop", threshold=0.1)),
    evaluations={"sets": [SET], "schedule": {}},
)


class Engines:
    """Answers rightly, except the share of rows that a version has lost; engines can fail."""

    def __init__(self):
        self.lost = {}
        self.failing = {}
        self.asked = []
        self.meanwhile = None
        self.json = "{}"

    async def ask(self, served, body, *, timeout_s) -> Answer | None:  # noqa: ARG002
        version, row = served.target.version, body["messages"][-1]["content"]
        self.asked.append((version, row))
        if self.meanwhile is not None:
            other, self.meanwhile = self.meanwhile, None
            await other()
        if version in self.failing:
            raise Transient(self.failing[version], "The engine failed.")
        if row.startswith("json"):
            return Answer(self.json)
        number = int(row.removeprefix("row "))
        return Answer("wrong" if number % 10 < 10 * self.lost.get(version, 0.0) else "right")


class World:
    """The evaluator's schedule and what it asks, in a clock of its own; another process has the same reports and bus."""

    def __init__(self, policy=POLICY, beside=None, lines=ROWS):
        self.clock, self.engines, self.policies = FakeClock(), Engines(), {}
        self.reports = beside.reports if beside is not None else {}
        self.routed = beside.routed if beside is not None else None
        self.published = beside.published if beside is not None else []
        self.default, self.lines, self.erased, self.reads = policy, lines, False, 0
        self.asking = Asking(self.engines, lambda _: "en")
        self.served = ServedEvaluations(self.publish, self, self, self.asking, self.clock)

    async def serve(self, active, previous=None):
        """Release versions with the scores that they have now, and let them serve."""
        for version in filter(None, (active, previous)):
            request = staging_request(
                purpose="evaluation",
                evaluations=self.default.evaluations,
                candidate=deployable(version),
                baseline=deployable(0),
            )
            staged = f.fact(VariantStaged, candidate=f.served(version), baseline=f.served(0), request=request)
            await Evaluator(self.asking, self, self.clock).evaluate(staged, lambda _done, _of: None)
        behind = f.served(previous) if previous is not None else None
        self.routed = f.route(active=f.served(active), previous=behind, canary=None)
        self.engines.asked.clear()

    async def check(self, after_hours=24.0):
        """Return what the next sweep publishes after some hours."""
        before = len(self.published)
        self.clock.seconds += timedelta(hours=after_hours).total_seconds()
        await self.served.sweep(f.MODEL)
        return self.published[-1].fact if len(self.published) > before else None

    # -- ports ------------------------------------------------------------------------------------------------------

    async def publish(self, emit):
        assert emit.id not in [each.id for each in self.published]
        self.published.append(emit)

    async def models(self):
        return [f.MODEL]

    async def route(self, _model):
        return self.routed

    async def last_check(self, _model):
        return self.published[-1].fact if self.published else None

    def find(self, _output_key):
        return None

    def commit(self, report):
        self.reports[report.target] = report
        return report, ArtifactRef(uri="s3://slipway/report.json", digest=digest_of(b"report"), size_bytes=1)

    def rows(self, _ref):
        if self.erased:
            raise Permanent("artifact_not_found", "The set was erased.")
        return "\n".join(map(json.dumps, self.lines)).encode()

    def policy(self, target):
        return self.policies.get(target.version, self.default)

    def released(self, target):
        self.reads += 1
        return self.reports.get(target)
