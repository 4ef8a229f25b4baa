"""The progress of a release for CLI and console: state, end and result of each step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from contracts.codes import Code
from contracts.facts import CheckpointMerged, ComparedVariant, Comparison, Quality, VariantBenchmarked, VariantQuantised
from contracts.facts.progress import ReleaseProgress, StepProgress
from contracts.vocabulary import Variant, Verdict
from decisions.checkpoints.adapters import describe_quantised
from decisions.releases.plan import ROWS, PlannedStep, Row, needs_approval, next_step
from decisions.rollback.drills import describe_detection
from decisions.rollback.suspensions import RETURNS
from services.registry.domain import approvals, deadlines, gates, plan
from services.registry.domain.orders import is_past_approval
from services.registry.domain.record import SHADOW, Release, weight_key
from services.registry.domain.selection import Ranking


def explain(release: Release) -> Comparison:
    """Return the current comparison: each requested variant with figures, verdict and reason."""
    ranking = gates.ranking(release)
    return Comparison(
        winner=ranking.winner if ranking else None,
        variants=tuple(_compare(release, variant, ranking) for variant in gates.requested_variants(release)),
    )


def _compare(release: Release, variant: Variant, ranking: Ranking | None) -> ComparedVariant:
    verdict, code, reason = _verdict(release, variant)
    quantised, quality = release.quantised.get(variant), _quality(release, variant)
    benchmark = release.benchmarked.get(variant)
    side, served = (benchmark.candidate_summary, benchmark.served_quality) if benchmark else (None, None)
    own = quantised.evaluation_quality if quantised else None
    return ComparedVariant(
        variant=variant,
        verdict=verdict,
        code=code,
        reason=ranking.reasons.get(variant, reason) if ranking else reason,
        on_pareto_front=ranking is not None and variant in ranking.front,
        size_bytes=quantised.weights_bytes if quantised else None,
        size_ratio=quantised.size_ratio if quantised else None,
        perplexity_ratio=quality.perplexity_ratio if quality else None,
        own_perplexity_ratio=own.perplexity_ratio if own else None,
        mean_kl=quality.mean_kl if quality else None,
        p99_kl=quality.p99_kl if quality else None,
        top1_agreement_ratio=quality.top1_agreement_ratio if quality else None,
        served_perplexity_ratio=served.perplexity_ratio if served and served.method == "prompt_logprobs" else None,
        ttft_p50_ms=side.ttft_ms.p50 if side else None,
        ttft_p95_ms=side.ttft_ms.p95 if side else None,
        tps_system=side.tps_system if side else None,
        million_tokens_price=benchmark.million_tokens_price if benchmark else None,
    )


def _quality(release: Release, variant: Variant) -> Quality | None:
    """Return a variant's measured quality, also if a gate rejected it."""
    quantised, failed = release.quantised.get(variant), release.failed.get(f"{variant}:quantise")
    if variant in release.benchmarked and quantised is not None:
        return gates.measured_quality(release, variant)
    return quantised.quality if quantised is not None else failed.quality if failed is not None else None


def _verdict(release: Release, variant: Variant) -> tuple[Verdict, Code | None, str]:
    """Return verdict, code and reason; inconclusive if the variant has no verdict yet."""
    excluded = gates.why_excluded(release, variant)
    if excluded is not None:
        return ("inconclusive" if excluded[0] == "inconclusive" else "fail"), *excluded
    verdict, code, reason = gates.verdict_on(release, variant) or ("inconclusive", None, "It was not judged.")
    return verdict, (None if verdict == "pass" else code), reason


_ROWS: Final[Mapping[str, Row]] = {row.title: row for row in ROWS.values()}
"""Rows by title; the last row where steps share a title."""
_LATE: Final = "no verdict in time; a person decides: slipway promote, or slipway cancel"


def progress_of(release: Release) -> ReleaseProgress:
    """Return the progress of a release."""
    steps, ended = tuple(_steps(release)), release.finished
    running = next((step.title for step in steps if step.state == "running"), "finishing")
    return ReleaseProgress(
        model=release.model,
        release_id=release.id,
        version=release.version,
        run_id=release.opened.training.run_id,
        opened_at=release.opened_at,
        state=ended.outcome if ended is not None else running,
        steps=steps,
        variants=gates.requested_variants(release),
        publishers=release.opened.publishers,
        approvers=_approvers(release),
        deadline_at=deadlines.deadline_at(release),
        paused=_paused(release),
        target=plan.chosen_target(release),
        comparison=explain(release) if release.quantised or release.failed else None,
        manual=needs_approval(release.policy),
        outcome=ended.outcome if ended is not None else None,
        code=ended.code if ended is not None else None,
        reason=ended.reason if ended is not None else "",
        finished_at=_finished_at(release),
    )


def _steps(release: Release) -> Iterator[StepProgress]:
    """Yield each step with its state; an awaited step is `running`."""
    opened, returns = release.opened, release.opened.returns
    detail = f"version {opened.version} reserved" if returns is None else f"{returns.target} {RETURNS}"
    yield StepProgress(name="admitted", title="admitted", state="done", at=release.opened_at, detail=detail)
    planned = [step for step in deadlines.plan_of(release) if returns is None or step.step != "queue"]
    done = deadlines.done(release)
    following = next_step(planned, done)
    failed = False
    for title in dict.fromkeys(step.title for step in planned):
        step = _step(release, title, [step for step in planned if step.title == title], done, following)
        if release.finished is not None and step.state != "done":
            step = _ended(release, step, failed=failed)
            failed = True
        yield step
    ended = release.finished
    if ended is None:
        last = "running" if following is None else "waiting"
        yield StepProgress(name="finished", title="finishing" if following is None else "finished", state=last)
        return
    state = "done" if ended.outcome == "promoted" else "failed"
    at = _finished_at(release)
    yield StepProgress(name="finished", title="finished", state=state, at=at, detail=ended.outcome)


def _step(
    release: Release,
    title: str,
    planned: Sequence[PlannedStep],
    done: frozenset[PlannedStep],
    following: PlannedStep | None,
) -> StepProgress:
    """Return the progress of a step, which may span several planned steps, in an open release."""
    row, detail = _ROWS[title], _DETAILS[title](release)
    variants, awaited = _variants(release, row)
    answered = len(variants) - len(awaited)
    if all(step in done for step in planned) and not awaited:
        return StepProgress(name=title, title=title, state="done", at=_ended_at(release, row), detail=detail)
    if (following is None or following.title != title) and not (answered and awaited):
        return StepProgress(name=title, title=title, state="waiting")
    if deadlines.awaited_step(release) == "queue":
        detail = "waits for its turn"
    detail = f"{answered} of {len(variants)}; {detail}" if answered else detail
    return StepProgress(name=title, title=row.under_way, state="running", detail=detail, awaited=awaited)


def _ended(release: Release, step: StepProgress, *, failed: bool) -> StepProgress:
    """Return an unfinished step of an ended release: the first unfinished step has failed, later ones wait."""
    ended = release.finished
    if ended is None or ended.outcome == "promoted":
        return step.model_copy(update={"state": "done", "title": step.name})
    if failed:
        return StepProgress(name=step.name, title=step.name, state="waiting")
    detail = step.detail or ended.code or ended.outcome
    return StepProgress(name=step.name, title=step.name, state="failed", at=_finished_at(release), detail=detail)


def _variants(release: Release, row: Row) -> tuple[tuple[Variant, ...], tuple[Variant, ...]]:
    """Return the variants that take a step individually, and those still without its result."""
    if not row.per_variant:
        return (), ()
    if row.name == "quantise":
        return gates.requested_variants(release), gates.not_quantised(release)
    registered = tuple(each.variant for each in gates.registered_variants(release))
    if release.turn is None:
        return registered, registered
    unjudged = deadlines.unjudged(release)
    loaded = release.staged if row.name == "stage" else ()
    return registered, tuple(variant for variant in unjudged if variant not in loaded)


def _ended_at(release: Release, row: Row) -> datetime | None:
    """Return the time of a finished step's last result."""
    recorded = {"stage": "staged", "approval": "approved", "shadow": f"{SHADOW} assessed", "canary": "assessed"}
    prefix = {"traffic": f"deployed:{plan.ALL_TRAFFIC}"}.get(row.name, recorded.get(row.name, row.title))
    failure = f" {row.name}"
    moments = [
        at
        for key, at in release.times.items()
        if key.startswith(prefix) or (key.startswith("failed:") and key.endswith(failure))
    ]
    return max(moments, default=None)


def _finished_at(release: Release) -> datetime | None:
    return release.emitted.get("release.finished")


def _approvers(release: Release) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for digest in release.approvals for name in approvals.approvers(release, digest)))


def _paused(release: Release) -> str:
    hold = release.hold
    if hold is None or not release.is_paused or release.finished is not None:
        return ""
    why = f": {hold.order.reason}" if hold.order.reason else ""
    return f"paused by {hold.sender} at {hold.at:%Y-%m-%d %H:%M:%S} UTC{why}"


# -- results ----------------------------------------------------------------------------------------------------------


def _merged(release: Release) -> str:
    return _describe_merge(release.merged) if release.merged is not None else ""


def _describe_merge(fact: CheckpointMerged) -> str:
    """Describe how well the merged model agrees with base + LoRA, and why it may differ."""
    if fact.parity is None:
        return ""
    base = fact.method.quantised_base
    quantised = f"; {describe_quantised(base)}" if base is not None else ""
    agreement = f"{fact.parity.top1_agreement_ratio:.1%} of likeliest tokens as with base + LoRA"
    rounded = fact.parity.top1_agreement_ratio < 1.0 and fact.method.dtype != "float32"
    return agreement + (f" (rounding to {fact.method.dtype} decides near-ties)" if rounded else "") + quantised


def _failures(release: Release, step: str) -> Iterator[str]:
    """Yield `VARIANT: CODE` for each failure in a step."""
    for key, fact in release.failed.items():
        if key == f"{fact.variant}:{step}":
            yield f"{fact.variant}: {fact.code}"


def _quantised(release: Release) -> str:
    results = (_describe_files(fact) for fact in release.quantised.values())
    return "; ".join(sorted((*results, *_failures(release, "quantise"))))


def _describe_files(fact: VariantQuantised) -> str:
    detail = f"{fact.variant}: perplexity x{fact.quality.perplexity_ratio:.3f}, size x{fact.size_ratio:.2f}"
    return detail + " of the merged model" + (" (embeddings are not quantised)" if fact.size_ratio < 1.0 else "")


def _staged(release: Release) -> str:
    if release.turn is None:
        return ""
    against = release.turn.baseline.target
    results = (f"{variant} next to v{against.version}.{against.variant}" for variant in release.staged)
    return "; ".join(sorted((*results, *_failures(release, "stage"))))


def _benchmarked(release: Release) -> str:
    results = (_describe_benchmark(fact) for fact in release.benchmarked.values())
    return "; ".join(sorted((*results, *_failures(release, "benchmark"))))


def _describe_benchmark(fact: VariantBenchmarked) -> str:
    p95 = fact.candidate_summary.ttft_ms.p95
    return f"{fact.target.variant}: {fact.verdict}" + ("" if p95 is None else f", TTFT p95 {p95:.0f} ms")


def _evaluated(release: Release) -> str:
    evaluated = release.evaluated
    if evaluated is None:
        return "; ".join(_failures(release, "evaluate"))
    return f"{evaluated.verdict}: {evaluated.reason}"


def _rehearsed(release: Release) -> str:
    rehearsed = release.rehearsed
    if rehearsed is None or rehearsed.verdict != "pass":
        return rehearsed.reason if rehearsed is not None else ""
    rolled_back = [
        f"{certificate.trigger} rolled back in {certificate.detect_s + certificate.switch_s:.1f} s"
        for certificate in rehearsed.certificates
    ]
    return ", ".join(filter(None, (*rolled_back, *{describe_detection(each) for each in rehearsed.certificates})))


def _approved(release: Release) -> str:
    """Return the approvers; while approvals are missing, their count and the deadline."""
    given, needed = _approvers(release), release.policy.approvals.count
    if "approval.requested" not in release.emitted or is_past_approval(release):
        return f"by {', '.join(given)}" if given else ""
    at = deadlines.deadline_at(release)
    until = f"waiting until {at:%Y-%m-%d %H:%M} UTC" if at is not None else "waiting"
    return f"{len(given)} of {needed} approvals, {until}" if needed > 1 else until


def _shadow(release: Release) -> str:
    shadow, begun = release.policy.shadow, release.deployed.get(SHADOW)
    if shadow is None or begun is None:
        return ""
    return _decided(release, SHADOW) or f"{begun.target} is asked {shadow.share_ratio:.0%} unseen"


def _canary(release: Release) -> str:
    """Return the canary's traffic share, or its outcome."""
    shares = [key for key in release.deployed if key not in (SHADOW, plan.ALL_TRAFFIC)]
    if not shares:
        return ""
    newest = max(shares, key=float)
    return _decided(release, newest) or f"{release.deployed[newest].target} takes {float(newest):.0%}"


def _decided(release: Release, key: str) -> str:
    """Describe the verdict on a share or shadow, or the decision without a verdict; empty while awaited."""
    assessed = release.shadowed if key == SHADOW else release.assessed.get(key)
    advance = release.advanced.get(weight_key(0.0) if key == SHADOW else key)
    if assessed is not None:
        return f"{assessed.verdict} after {assessed.requests} requests"
    if advance is not None:
        return f"without a verdict, by {advance.sender}"
    if key in release.waived:
        return "no verdict in time; the policy goes on without it"
    return _LATE if key in release.overdue else ""


def _in_traffic(release: Release) -> str:
    deployed = release.deployed.get(plan.ALL_TRAFFIC)
    return f"{deployed.target} takes all traffic" if deployed is not None else ""


_DETAILS: Final[Mapping[str, Callable[[Release], str]]] = {
    "merged": _merged,
    "quantised": _quantised,
    "registered": lambda release: f"version {release.version}" if release.manifest is not None else "",
    "staged": _staged,
    "benchmarked": _benchmarked,
    "evaluated": _evaluated,
    "rehearsed": _rehearsed,
    "approved": _approved,
    "shadow": _shadow,
    "canary": _canary,
    "in traffic": _in_traffic,
}
