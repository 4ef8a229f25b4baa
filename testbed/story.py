"""The events of a fleet as people see it: releases, canaries, approvals, alerts, rollbacks. Each time the same ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from hdrh.histogram import HdrHistogram

from contracts import facts as f
from contracts.envelope import Event, source_of
from contracts.facts.watch import RollbackTimeline, Window
from contracts.policy import Canary, MetricGate, Promotion
from contracts.routes import CanaryShare, Suspended
from contracts.services import EVENTS, emitters, stream_of
from contracts.vocabulary import ArtifactRef, Target
from testbed import factories
from testbed.progress import with_progress

WINDOW_S = 30
VARIANTS = {
    "bf16": (270_000_000, 1.0, 1.0),
    "int8": (165_000_000, 0.61, 1.012),
    "gptq-int4": (112_000_000, 0.42, 1.071),
}
"""Bytes, share of the merged weights, and perplexity over that of the merged model."""
REPORT = factories.ref("report", "manifests/drift")
"""The evidence of an alert about drift."""


def release_id(number: int) -> str:
    return f"r-{number:016x}-1"


@lru_cache(maxsize=4096)
def histogram(milliseconds: float, count: int) -> str:
    sketch = HdrHistogram(1, 86_400_000_000, 3)
    for position in range(count):
        sketch.record_value(round(milliseconds * 1000 * (0.7 + 0.6 * position / max(1, count - 1))))
    return sketch.encode().decode()


@dataclass
class Story:
    """Makes events one after the other; `moment` moves with `wait`.

    Attributes:
        moment: The time of the next event.
        assessments: Of each step of a canary; every second one with a window of both sides.
    """

    moment: datetime
    assessments: int = 12
    _number: int = 0
    _routes: dict = field(default_factory=dict)

    def wait(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def event(
        self, data: f.Fact, model: str, correlation: str, *, by: str = "", cause: str | None = None, **more
    ) -> Event:
        self._number += 1
        sender = by or (*emitters(type(data)), "jonas")[0]
        return Event[type(data)](
            id=f"e-{self._number}",
            source=source_of(sender),
            type=data.TYPE,
            subject=model,
            time=self.moment,
            correlationid=correlation,
            causationid=cause,
            data=data,
            **more,
        )

    def release(
        self, model: str, version: int, number: int, *, until: str = "promoted", manual: bool = False, text: str = ""
    ) -> Iterator[Event]:
        """Yield the events of a release up to a state: `merging`, `approval`, `canary`, `promoted` or `rejected`."""
        known, chosen = release_id(number), factories.target(version, "int8", model)
        policy = factories.policy(
            promotion=Promotion(mode="manual" if manual else "automatic"),
            canary=Canary(steps=(0.1, 0.5)),
            gates=(MetricGate(metric="ttft_ms", statistic="p95", max_ratio=1.2),),
        )
        variants = ("bf16", "int8", "gptq-int4")
        opened = factories.fact(
            f.ReleaseOpened, release_id=known, model=model, version=version, variants=variants, policy=policy,
            publishers=("support-training",), training=self._training(model, version),
        )  # fmt: skip
        yield self.event(opened, model, known, cause=f"checkpoint-{number}")
        self.wait(41)
        if until == "merging":
            return
        yield self.event(factories.fact(f.CheckpointMerged), model, known)
        for variant in variants:
            self.wait(30)
            yield self.event(self._quantised(f"{model}.v{version}", variant), model, known)
        self.wait(3)
        yield self.event(factories.fact(f.VersionRegistered, version=version), model, known)
        for variant in variants:
            self.wait(20)
            measured = factories.target(version, variant, model)
            yield self.event(self._staged(known, measured), model, known)
            self.wait(60)
            yield self.event(self._benchmarked(measured, until), model, known)
        if until == "rejected":
            yield from self._end(known, chosen, "rejected", text or "No variant passed its gates.", "gate_failed")
            return
        yield self.event(factories.fact(f.RehearsalCompleted, release_id=known, variant="int8"), model, known)
        yield from self._traffic(known, chosen, until=until, manual=manual, text=text)

    def _training(self, model: str, version: int) -> f.Training:
        stated = factories.training()
        return stated.model_copy(
            update={
                "run_id": f"{model}-{self.moment:%Y-%m-%d}-{version}",
                "data_hash": factories.digest(f"{model} tickets {version}"),
                "hyperparameters": {**stated.hyperparameters, "steps": 20 + 10 * version},
            }
        )

    def _quantised(self, version: str, variant: str) -> f.VariantQuantised:
        size, share, perplexity = VARIANTS[variant]
        quality = factories.quality().model_copy(update={"perplexity_ratio": perplexity})
        return factories.fact(
            f.VariantQuantised,
            variant=variant,
            weights_bytes=size,
            size_ratio=share,
            quality=quality,
            manifest=factories.ref(f"{version}.{variant}", "manifests/variant"),
        )

    def _benchmarked(self, measured: Target, until: str) -> f.VariantBenchmarked:
        """Return a benchmark by which `int8` is the fastest; of a release that is rejected, one that fails."""
        slower = 1.0 if measured.variant == "int8" else 1.5
        summary = factories.side(measured.version)
        ttft = summary.ttft_ms.model_copy(
            update={name: slower * getattr(summary.ttft_ms, name) for name in ("p50", "p95")}
        )
        quality = self._quantised("", measured.variant).quality
        return factories.fact(
            f.VariantBenchmarked,
            target=measured,
            quality=quality,
            candidate_summary=summary.model_copy(update={"ttft_ms": ttft}),
            verdict="fail" if until == "rejected" else "pass",
        )

    def _staged(self, known: str, measured: Target) -> f.VariantStaged:
        staged = factories.fact(f.VariantStaged)
        request = staged.request.model_copy(update={"purpose": "benchmark", "release_id": known})
        candidate = factories.served(measured.version, measured.variant, measured.model)
        return staged.model_copy(update={"candidate": candidate, "request": request})

    def _traffic(self, known: str, chosen: Target, *, until: str, manual: bool, text: str) -> Iterator[Event]:
        model = chosen.model
        if manual:
            asked = factories.fact(
                f.ApprovalRequested,
                release_id=known,
                target=chosen,
                deadline_at=self.moment + timedelta(days=1),
                approvals=1,
            )
            yield self.event(asked, model, known)
            if until == "approval":
                return
            self.wait(300)
            granted = factories.fact(
                f.ApprovalGranted, release_id=known, reason=text or "Reads well on our own prompts."
            )
            yield self.event(granted, model, known, by="anna")
        for weight in (0.1, 0.5) if model in self._routes else ():  # a first version has no canary
            yield from self._share(known, chosen, weight)
            open_now = until == "canary" and weight == 0.1
            yield from self._canary(known, chosen, weight, open_now=open_now)
            if open_now:
                return
        yield from self._share(known, chosen, 1.0)
        yield from self._end(known, chosen, "promoted", "int8 serves all traffic.", None)

    def _canary(self, known: str, chosen: Target, weight: float, *, open_now: bool) -> Iterator[Event]:
        """Yield windows of both sides and assessments of the candidate, whose evidence rises a little."""
        active = self._routes[chosen.model].active.target
        for step in range(1, self.assessments + 1):
            self.wait(WINDOW_S / 2)
            if step % 2:
                for target, ttft_ms, count in ((active, 120.0, 180), (chosen, 109.0 + 3 * step, 20)):
                    yield self.event(self._window(target, self.moment, ttft_ms, count), chosen.model, str(target))
            done = step == self.assessments and not open_now
            e_value = 1.0 + 0.02 * step
            yield self.event(
                factories.fact(
                    f.CanaryAssessed, target=chosen, weight_ratio=weight, requests=18 * step,
                    verdict="pass" if done else "inconclusive", requests_needed=0 if done else max(86, 300 - 18 * step),
                    e_values={
                        "slow-first-token": 4 * e_value, "errors": 1.0, "errors:baseline": e_value,
                    },
                    counts={
                        "slow-first-token": f.TriggerCounts(
                            requests=18 * step, bad=step, active_requests=15 * step, active_bad=2
                        ),
                        "errors": f.TriggerCounts(
                            requests=18 * step, active_requests=15 * step, mirrored=f.PairCounts(neither=2 * step)
                        ),
                    },
                    reason=f"{18 * step} of 200 requests; slow-first-token: {step} of {18 * step} bad, 0.05 allowed.",
                ), chosen.model, known,
            )  # fmt: skip

    def _window(self, target: Target, to: datetime, ttft_ms: float, requests: int) -> f.WindowSummarised:
        return factories.fact(
            f.WindowSummarised, target=target, window=Window(from_=to - timedelta(seconds=WINDOW_S), to=to),
            requests=requests, ttft_histogram=histogram(ttft_ms, 40), itl_histogram=histogram(ttft_ms / 8, 40),
            e2e_histogram=histogram(ttft_ms * 9, 40), target_failures=0,
            observed={"slow-first-token": (requests, requests // 40), "errors": (requests, 0)},
        )  # fmt: skip

    def _share(self, known: str, chosen: Target, weight: float) -> Iterator[Event]:
        model, served = chosen.model, factories.served(chosen.version, chosen.variant, chosen.model)
        asked = factories.fact(
            f.TrafficRequested,
            release_id=known,
            target=served,
            weight_ratio=weight,
        )
        event = self.event(asked, model, known)
        yield event
        self.wait(0.4)
        before = self._routes.get(model)
        active = before.active if before is not None else None
        changes = {"epoch": (before.epoch if before else 0) + 1, "cause_id": event.id, "quarantined": (), "history": ()}
        if weight < 1.0 and active is not None:
            changes |= {
                "active": active,
                "previous": before.previous,
                "canary": CanaryShare(served=served, weight_ratio=weight),
            }
        else:
            changes |= {"active": served, "previous": active, "canary": None}
        yield self._moved(model, known, "canary" if changes["canary"] else "promote", **changes)

    def _moved(self, model: str, correlation: str, cause: str, **changes) -> Event:
        moved = self._routes[model] = factories.route(model=model, **changes)
        fact = f.DeploymentChanged(route=moved, cause=cause, at=self.moment)
        by = "rollback-controller" if cause in ("rollback", "abort", "confirm", "return") else "server-manager"
        return self.event(fact, model, correlation, by=by, cause=changes.get("cause_id"))

    def _end(self, known: str, chosen: Target, outcome: str, reason: str, code: str | None) -> Iterator[Event]:
        fact = factories.fact(
            f.ReleaseFinished, release_id=known, model=chosen.model, version=chosen.version, outcome=outcome,
            reason=reason, code=code, target=chosen,
        )  # fmt: skip
        self.wait(2)
        yield self.event(fact, chosen.model, known)

    def windows(self, model: str, count: int, *, ttft_ms: float, requests: int) -> Iterator[Event]:
        """Yield summaries of windows of the active target, the last one ending now."""
        target = self._routes[model].active.target
        sketches: dict[float, str] = {}
        begin = self.moment
        for position in range(count):
            to = begin - timedelta(seconds=WINDOW_S * (count - 1 - position))
            wave = round(ttft_ms * (1 + 0.2 * math.sin(position / 5)), 0)
            sketches.setdefault(wave, histogram(wave, 40))
            fact = factories.fact(
                f.WindowSummarised, target=target, window=Window(from_=to - timedelta(seconds=WINDOW_S), to=to),
                requests=max(0, round(requests * (1 + 0.4 * math.sin(position / 7)))), ttft_histogram=sketches[wave],
                target_failures=0,
            )  # fmt: skip
            yield self.event(fact, model, str(target))

    def active(self, model: str) -> Target:
        return self._routes[model].active.target

    def has_previous(self, model: str) -> bool:
        return self._routes[model].previous is not None

    def alert(
        self,
        model: str,
        *,
        roll_back: bool = True,
        message: str = "",
        trigger: str = "ttft-p95",
        evidence: ArtifactRef | None = None,
        drill: str | None = None,
    ) -> Iterator[Event]:
        """Yield an alert on the active target of a model, and the rollback that follows."""
        before = self._routes[model]
        target, started = before.active.target, self.moment - timedelta(seconds=9)
        text = message or "31 % of answers began after 800 ms in the last 9 s (30 of 96); 5 % are allowed."
        about = {
            "alert_id": f"{target}/{trigger}/{before.epoch}", "kind": "latency", "severity": "critical",
            "target": target,
            "trigger": trigger, "value": 0.3125, "limit": 0.05, "e_value": 57.0, "requests": 96, "message": text,
            "first_bad_at": started, "raised_at": self.moment, "drill": drill, "release_id": None,
            "evidence": evidence, "answers_nothing": False,
        }  # fmt: skip
        raised = self.event(factories.fact(f.AlertRaised).model_copy(update=about), model, about["alert_id"])
        yield raised
        if not roll_back:
            return
        yield from self.rollback(model, raised, first_bad_at=started)
        after = {"value": 0.01, "requests": 88, "message": "1 % of answers began after 800 ms; 5 % are allowed."}
        resolved = factories.fact(f.AlertResolved).model_copy(update=about | after)
        yield self.event(resolved, model, about["alert_id"])

    def rollback(
        self, model: str, cause: Event, *, mode: str = "automatic", first_bad_at: datetime | None = None
    ) -> Iterator[Event]:
        """Yield the rollback of the active target of a model that an alert or an order caused."""
        before, correlation, detected = self._routes[model], cause.correlationid, self.moment
        target = before.active.target
        self.wait(0.012)
        times = {"first_bad_at": first_bad_at, "detected_at": detected, "decided_at": self.moment}
        shown = {
            "rollback_id": f"rb-{cause.id}", "cause_id": cause.id, "failed": target, "to": before.previous.target,
            "mode": mode,
        }  # fmt: skip
        yield self.event(
            factories.fact(f.RollbackStarted, **shown, timeline=RollbackTimeline(**times)), model, correlation
        )
        self.wait(0.031)
        times["switched_at"] = self.moment
        left: dict[str, Any] = {"quarantined": (target,), "suspended": ()}
        if mode == "automatic":
            held = Suspended(served=before.active, cause=cause.data.message, since=self.moment)
            left = {"quarantined": (), "suspended": (held,)}
        yield self._moved(
            model, correlation, "rollback", epoch=before.epoch + 1, active=before.previous, previous=None,
            canary=None, history=(), cause_id=shown["rollback_id"], **left,
        )  # fmt: skip
        self.wait(6.2)
        times["verified_at"] = self.moment
        done = factories.fact(
            f.RollbackCompleted, **shown, timeline=RollbackTimeline(**times), verdict="pass", reason=""
        )
        yield self.event(done, model, correlation)

    def decide(self, model: str, decision: str, *, reason: str = "Its figures are its own.") -> Iterator[Event]:
        """Yield the decision of a person about the suspended version of a model, and the route after it."""
        before = self._routes[model]
        held = before.suspended[0].served
        decided = factories.fact(f.SuspensionDecided, target=held.target, decision=decision, reason=reason)
        ordered = self.event(decided, model, f"{decision}-{model}", by="oscar")
        yield ordered
        self.wait(0.1)
        served = {"active": before.active, "previous": before.previous, "quarantined": (held.target,)}
        if decision == "return":
            served = {"active": held, "previous": before.active, "quarantined": ()}
        yield self._moved(
            model, ordered.correlationid, decision, epoch=before.epoch + 1, canary=None, suspended=(),
            history=before.history, cause_id=ordered.id, **served,
        )  # fmt: skip


def drilled(story: Story, model: str) -> Iterator[Event]:
    """Yield a drill on the active target of a model, the alert that it raises, and the rollback that follows."""
    target = story.active(model)
    order = factories.fact(
        f.DrillOrdered,
        target=target,
        environment="production",
        reason="Quarterly drill.",
        fault=f.DrillFault(delay_ms=900),
        share_ratio=0.5,
        expires_at=story.moment + timedelta(minutes=10),
    )
    ordered = story.event(order, model, f"drill-{model}", by="oscar")
    yield ordered
    accepted = factories.fact(
        f.OrderAccepted,
        order_id=ordered.id,
        order_type=order.TYPE,
    )
    yield story.event(accepted, model, ordered.correlationid)
    story.wait(8.5)
    yield from story.alert(model, trigger="drilled", drill=ordered.id)


def fleet(now: datetime) -> list[Event]:
    """Return the events of a fleet of some models, which end about now."""
    story = Story(now - timedelta(hours=9))
    events: list[Event] = []
    models = ("support-bot", "search-ranker", "invoice-reader", "faq-de", "code-helper", "mail-sorter")
    for number, model in enumerate(models):
        events += story.release(model, 1, 10 * number + 1)
        story.wait(900)
    events += story.release("support-bot", 2, 5)
    events += story.release("search-ranker", 2, 16, manual=True)
    events += story.release("mail-sorter", 2, 66)
    events += drilled(story, "mail-sorter")
    events += story.release("invoice-reader", 2, 27, until="rejected")
    story.moment = now - timedelta(minutes=25)
    events += story.alert("support-bot")
    story.moment = now - timedelta(minutes=12)
    events += story.windows("faq-de", 48, ttft_ms=120.0, requests=180)
    events += story.release("faq-de", 2, 38, until="canary")
    events += story.release("code-helper", 2, 49, until="approval", manual=True)
    story.moment = now - timedelta(minutes=1)
    events += story.alert("search-ranker", roll_back=False)
    events += story.alert("faq-de", roll_back=False, trigger="drift", evidence=REPORT)
    events += story.release("mail-sorter", 3, 60, until="merging")
    story.moment = now
    for number, model in enumerate(models):
        if model == "faq-de":  # whose canary has windows of its own
            continue
        events += story.windows(model, 60, ttft_ms=120.0 + 60 * number, requests=40 + 30 * number)
    return list(with_progress(events))


def stream_for(event: Event) -> str:
    return stream_of(type(event.data)) or EVENTS
