"""The release policy: what a release must prove, and which regressions roll it back.

Unknown fields are errors in a policy, and only there: a misspelt gate must not become a missing one.
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
    """Whether an operator must approve, and how long the release waits for that."""

    mode: Literal["automatic", "manual"] = "automatic"
    approval_deadline_s: Seconds = 86_400.0


class Canary(_Strict):
    """Traffic shares before full promotion; without steps the release goes to 100 % at once."""

    steps: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    min_requests: Annotated[int, Field(ge=1)] = 100
    deadline_s: Seconds = 3_600.0
    on_deadline: Literal["abort", "promote"] = "abort"

    @model_validator(mode="after")
    def _steps_rise(self) -> "Canary":
        if list(self.steps) != sorted(set(self.steps)):
            msg = f"canary steps are {list(self.steps)}; each must be above the one before"
            raise ValueError(msg)
        return self


class Trigger(_Strict):
    """A limit on a metric, declared before deployment, and the action when evidence says that it is exceeded."""

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

    After `quantise_s` it continues with the variants that are quantised, and ends only if there is none.
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
        """The triggers that roll back without an operator; each of them must have been rehearsed."""
        return tuple(trigger for trigger in self.triggers if trigger.action == "automatic")

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ReleasePolicy":
        names = [trigger.name for trigger in self.triggers]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            msg = f"the trigger name {repeated[0]!r} is used more than once; trigger names must be unique"
            raise ValueError(msg)
        return self
