"""The release policy: what a release must prove, and when and how it goes back.

Unknown fields are errors here, and only here: a misspelt gate must not become a missing one.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .vocabulary import Variant

Metric = Literal["ttft_ms", "itl_ms", "e2e_ms", "tps_system", "tps_request", "error_ratio"]
Statistic = Literal["mean", "p50", "p95", "p99"]
TriggerMetric = Literal["ttft_ms", "e2e_ms", "error_ratio", "refusal_ratio", "empty_ratio", "repetition_ratio", "drift"]
Objective = Literal["quality", "latency", "cost"]
Seconds = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QualityGate(_Strict):
    """The most quality a variant may lose against the merged model."""

    max_perplexity_ratio: Annotated[float, Field(ge=1.0)] | None = None
    max_mean_kl: Annotated[float, Field(ge=0.0)] | None = None


class MetricGate(_Strict):
    """A bound on a benchmark figure, absolute or as a ratio to the baseline (higher figures bounded below)."""

    metric: Metric
    statistic: Statistic = "p95"
    max_value: float | None = None
    min_value: float | None = None
    max_ratio: float | None = None
    min_ratio: float | None = None

    @property
    def name(self) -> str:
        """Name that reports use: `ttft_ms.p95`."""
        return self.metric if self.metric in ("tps_system", "error_ratio") else f"{self.metric}.{self.statistic}"

    @model_validator(mode="after")
    def _has_a_bound(self) -> "MetricGate":
        if all(bound is None for bound in (self.max_value, self.min_value, self.max_ratio, self.min_ratio)):
            msg = "a gate needs max_value, min_value, max_ratio or min_ratio"
            raise ValueError(msg)
        return self


class LoadProfile(_Strict):
    """The open-loop load of a benchmark, the same for candidate and baseline."""

    requests: Annotated[int, Field(ge=1, le=100_000)] = 40
    rate_rps: Annotated[float, Field(gt=0, le=1000)] = 2.0
    output_tokens: Annotated[int, Field(ge=1, le=4096)] = 24
    warmup_requests: Annotated[int, Field(ge=0)] = 2
    timeout_s: Seconds = 60.0


class Promotion(_Strict):
    """Whether a person must approve, and for how long that is awaited."""

    mode: Literal["automatic", "manual"] = "automatic"
    approval_deadline_s: Seconds = 86_400.0


class Canary(_Strict):
    """Traffic shares before the whole; no steps means straight to 100 %."""

    steps: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    min_requests: Annotated[int, Field(ge=1)] = 100
    deadline_s: Seconds = 3_600.0
    on_deadline: Literal["abort", "promote"] = "abort"

    @model_validator(mode="after")
    def _steps_rise(self) -> "Canary":
        if list(self.steps) != sorted(set(self.steps)):
            msg = "canary steps must rise"
            raise ValueError(msg)
        return self


class Trigger(_Strict):
    """Declared before deployment: which metric, at which threshold, leads back, and how."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    metric: TriggerMetric
    threshold: Annotated[float, Field(ge=0)]
    allowed_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    window_s: Seconds = 60.0
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.001
    min_requests: Annotated[int, Field(ge=1)] = 20
    action: Literal["automatic", "manual"] = "automatic"
    cooldown_s: Annotated[float, Field(ge=0)] = 300.0


class Deadlines(_Strict):
    """How long a release waits at each step before it ends as expired.

    After `quantise_s` it goes on with the variants that are made, and ends only if there is none.
    """

    merge_s: Seconds = 3_600.0
    quantise_s: Seconds = 14_400.0
    stage_s: Seconds = 3_600.0
    benchmark_s: Seconds = 3_600.0
    rehearsal_s: Seconds = 3_600.0
    queue_s: Seconds = 86_400.0
    traffic_s: Seconds = 1_800.0


class ReleasePolicy(_Strict):
    """Everything a release must satisfy, frozen when it is opened."""

    quality: dict[Variant, QualityGate] = {}
    gates: tuple[MetricGate, ...] = ()
    load: LoadProfile = LoadProfile()
    objective: Objective = "quality"
    promotion: Promotion = Promotion()
    canary: Canary = Canary()
    rehearsal: Literal["required", "not_required"] = "required"
    rehearsal_valid_s: Seconds = 604_800.0
    no_previous: Literal["base", "hold"] = "base"
    on_newer: Literal["queue", "supersede"] = "queue"
    triggers: Annotated[tuple[Trigger, ...], Field(min_length=1)]
    deadlines: Deadlines = Deadlines()

    @property
    def automatic(self) -> tuple[Trigger, ...]:
        """The triggers that lead back by themselves; each of them must have been rehearsed."""
        return tuple(trigger for trigger in self.triggers if trigger.action == "automatic")

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ReleasePolicy":
        names = [trigger.name for trigger in self.triggers]
        if len(names) != len(set(names)):
            msg = "trigger names must be unique"
            raise ValueError(msg)
        return self


def weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    """Name everything in which a policy asks for less than the stored one; empty when it only tightens."""
    found = _quality_weaknesses(policy, stored)
    found += _gate_weaknesses(policy, stored)
    found += _trigger_weaknesses(policy, stored)
    if stored.promotion.mode == "manual" and policy.promotion.mode == "automatic":
        found.append("promotion.mode is automatic where the stored policy says manual")
    if stored.rehearsal == "required" and policy.rehearsal == "not_required":
        found.append("rehearsal is not_required where the stored policy says required")
    if policy.rehearsal_valid_s > stored.rehearsal_valid_s:
        found.append(f"rehearsal_valid_s is above the stored {stored.rehearsal_valid_s:g}")
    if stored.no_previous == "base" and policy.no_previous == "hold":
        found.append("no_previous is hold where the stored policy says base")
    return found + _canary_weaknesses(policy.canary, stored.canary) + _load_weaknesses(policy.load, stored.load)


def _canary_weaknesses(mine: Canary, theirs: Canary) -> list[str]:
    found = []
    if len(mine.steps) < len(theirs.steps) or any(a > b for a, b in zip(mine.steps, theirs.steps, strict=False)):
        found.append(f"canary.steps {list(mine.steps)} are fewer or larger than the stored {list(theirs.steps)}")
    if theirs.steps and mine.min_requests < theirs.min_requests:
        found.append(f"canary.min_requests is {mine.min_requests}, below the stored {theirs.min_requests}")
    if theirs.on_deadline == "abort" and mine.on_deadline == "promote":
        found.append("canary.on_deadline is promote where the stored policy says abort")
    if theirs.steps and mine.on_deadline == theirs.on_deadline == "promote" and mine.deadline_s < theirs.deadline_s:
        found.append(
            f"canary.deadline_s promotes after {mine.deadline_s:g} s, before the stored {theirs.deadline_s:g} s"
        )
    return found


def _load_weaknesses(mine: LoadProfile, theirs: LoadProfile) -> list[str]:
    """A lighter load passes gates that the stored load might not."""
    fields = ("requests", "rate_rps", "output_tokens")
    lighter = [field for field in fields if getattr(mine, field) < getattr(theirs, field)]
    return [f"load.{field} is {getattr(mine, field)}, below the stored {getattr(theirs, field)}" for field in lighter]


def _upper_is_weaker(mine: float | None, theirs: float | None) -> bool:
    return theirs is not None and (mine is None or mine > theirs)


def _lower_is_weaker(mine: float | None, theirs: float | None) -> bool:
    return theirs is not None and (mine is None or mine < theirs)


def _quality_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    found = []
    for variant, theirs in stored.quality.items():
        mine = policy.quality.get(variant, QualityGate())
        fields = ("max_perplexity_ratio", "max_mean_kl")
        weaker = [field for field in fields if _upper_is_weaker(getattr(mine, field), getattr(theirs, field))]
        found += [f"quality.{variant}.{field} is weaker than the stored {getattr(theirs, field)}" for field in weaker]
    return found


def _gate_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    found = []
    for name in dict.fromkeys(gate.name for gate in stored.gates):
        mine, theirs = _tightest(policy.gates, name), _tightest(stored.gates, name)
        if all(bound is None for bound in mine.values()):
            found.append(f"gate {name} of the stored policy is missing")
            continue
        upper = [field for field in _UPPER if _upper_is_weaker(mine[field], theirs[field])]
        lower = [field for field in _LOWER if _lower_is_weaker(mine[field], theirs[field])]
        found += [f"gate {name}: {field} is weaker than the stored {theirs[field]}" for field in upper + lower]
    return found


_UPPER = ("max_value", "max_ratio")
_LOWER = ("min_value", "min_ratio")


def _tightest(gates: tuple[MetricGate, ...], name: str) -> dict[str, float | None]:
    """Return each bound that a policy's gates of one name set together: every one of them must pass."""
    bounds: dict[str, float | None] = {}
    for fields, tighter in ((_UPPER, min), (_LOWER, max)):
        for field in fields:
            values = [getattr(gate, field) for gate in gates if gate.name == name and getattr(gate, field) is not None]
            bounds[field] = tighter(values) if values else None
    return bounds


def _trigger_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    mine_by_name = {trigger.name: trigger for trigger in policy.triggers}
    found = []
    for theirs in stored.triggers:
        mine = mine_by_name.get(theirs.name)
        if mine is None or mine.metric != theirs.metric:
            found.append(f"trigger {theirs.name} ({theirs.metric}) of the stored policy is missing")
            continue
        if mine.threshold > theirs.threshold or mine.allowed_ratio > theirs.allowed_ratio:
            found.append(f"trigger {theirs.name}: threshold or allowed_ratio is above the stored one")
        if theirs.action == "automatic" and mine.action == "manual":
            found.append(f"trigger {theirs.name}: action is manual where the stored policy says automatic")
        if mine.min_requests > theirs.min_requests or mine.alpha < theirs.alpha:
            found.append(f"trigger {theirs.name}: needs more evidence than the stored one")
        if mine.window_s != theirs.window_s:  # longer is slower to notice, shorter may never hold enough evidence
            found.append(f"trigger {theirs.name}: window_s is not the stored {theirs.window_s:g}")
        if mine.cooldown_s > theirs.cooldown_s:
            found.append(f"trigger {theirs.name}: cooldown_s is above the stored {theirs.cooldown_s:g}")
    return found
