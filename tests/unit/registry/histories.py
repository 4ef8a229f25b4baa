"""Histories of a release in any order, with copies and crashes."""

from datetime import timedelta

from contracts.evaluations import Evaluations
from contracts.policy import Canary, MetricGate, Promotion, QualityGate, Shadow
from services.registry.domain.record import Input
from services.registry.domain.releases import decide, open_release
from tests.kit import fakes_registry as k

NOW = k.START + timedelta(hours=1)


def inputs(*facts):
    return [Input(f"e{i}", k.START + timedelta(seconds=i), fact) for i, fact in enumerate(facts, 1)]


STRAIGHT = (
    k.opened(policy=k.policy()),
    inputs(
        k.merged(),
        k.quantised("bf16", perplexity_ratio=1.0),
        k.quantised("int8"),
        k.written(),
        k.turn(),
        k.staged("bf16"),
        k.benchmarked("bf16"),
        k.staged("int8"),
        k.benchmarked("int8"),
        k.changed(k.route(k.target("bf16"))),
    ),
)


ONE_FAILS = (
    k.opened(policy=k.policy(), variants=("bf16", "int8", "gptq-int4")),
    inputs(
        k.merged(),
        k.quantised("bf16", perplexity_ratio=1.0),
        k.quantised("int8"),
        k.failed("gptq-int4"),
        k.written(),
        k.turn(),
        k.staged("bf16"),
        k.benchmarked("bf16", verdict="fail"),
        k.failed("int8", "stage", "insufficient_memory"),
    ),
)


ONE_NOT_SERVABLE = (
    k.opened(policy=k.policy(), variants=("bf16", "int8", "fp8")),
    inputs(
        k.failed("fp8", "stage", "variant_not_servable"),
        k.merged(),
        k.quantised("bf16", perplexity_ratio=1.0),
        k.quantised("int8"),
        k.quantised("fp8"),
        k.written(),
        k.turn(),
        k.staged("bf16"),
        k.benchmarked("bf16"),
        k.staged("int8"),
        k.benchmarked("int8"),
        k.changed(k.route(k.target("bf16"))),
    ),
)


CAREFUL_POLICY = k.careful_policy(
    promotion=Promotion(mode="manual"),
    canary=Canary(steps=(0.1, 0.5)),
    objective="cost",
    gates=(MetricGate(metric="ttft_ms", max_value=500.0),),
    quality={"int8": QualityGate(max_perplexity_ratio=1.1)},
)


CAREFUL = (
    k.opened(policy=CAREFUL_POLICY),
    inputs(
        k.merged(),
        k.quantised("bf16", weights_bytes=200),
        k.quantised("int8"),
        k.written(),
        k.turn(first=False, epoch=3),
        k.staged("int8"),
        k.benchmarked("int8"),
        k.staged("bf16"),
        k.benchmarked("bf16"),
        k.rehearsed(of=CAREFUL_POLICY),
        k.approval(k.quantised("int8").manifest.digest),
        k.changed(k.route(k.target("bf16", 9), k.target("int8"), weight=0.1, epoch=4), "canary"),
        k.assessed("int8", 0.1),
        k.changed(k.route(k.target("bf16", 9), k.target("int8"), weight=0.5, epoch=5), "canary"),
        k.assessed("int8", 0.5),
        k.changed(k.route(k.target("int8"), epoch=6)),
    ),
)


SHADOWED = (
    k.opened(policy=k.policy(canary=Canary(steps=(0.1,)), shadow=Shadow())),
    inputs(
        k.merged(),
        k.quantised("bf16", weights_bytes=200),
        k.quantised("int8"),
        k.written(),
        k.turn(first=False, epoch=3),
        k.staged("int8"),
        k.benchmarked("int8"),
        k.staged("bf16"),
        k.benchmarked("bf16", verdict="fail"),
        k.changed(k.route(k.target("bf16", 9), shadow=k.target("int8"), epoch=4), "shadow"),
        k.shadow_assessed("int8"),
        k.changed(k.route(k.target("bf16", 9), k.target("int8"), weight=0.1, epoch=5), "canary"),
        k.assessed("int8", 0.1),
        k.changed(k.route(k.target("int8"), epoch=6)),
    ),
)


MEASURED = (
    k.merged(),
    k.quantised("bf16", perplexity_ratio=1.2),
    k.quantised("int8", perplexity_ratio=1.0),
    k.written(),
    k.turn(),
    k.staged("bf16"),
    k.benchmarked("bf16"),
    k.staged("int8"),
    k.benchmarked("int8"),
)


REHEARSED = (
    k.opened(policy=k.careful_policy()),
    inputs(*MEASURED, k.rehearsed(), k.changed(k.route(k.target("int8")))),
)


_EVALUATED_POLICY = k.careful_policy(
    evaluations=Evaluations.model_validate({"sets": [{"name": "basics", "rows": "default"}]})
)
EVALUATED = (
    k.opened(policy=_EVALUATED_POLICY),
    inputs(*MEASURED, k.evaluated(), k.rehearsed(of=_EVALUATED_POLICY), k.changed(k.route(k.target("int8")))),
)


HISTORIES = {
    "straight": STRAIGHT,
    "one fails": ONE_FAILS,
    "one is not servable": ONE_NOT_SERVABLE,
    "careful": CAREFUL,
    "shadowed": SHADOWED,
    "rehearsed": REHEARSED,
    "evaluated": EVALUATED,
}


def walk(opening, received, now=NOW):
    release = open_release(opening, cause_id="e0", now=k.START).release
    for event in received:
        decision = decide(release, event, now)
        assert decision.publish == decision.release.outbox[len(release.outbox) :]
        release = decision.release
    return release


def emitted(release):
    return {k.key_of(entry): (entry.type, entry.data) for entry in k.without_progress(release.outbox)}
