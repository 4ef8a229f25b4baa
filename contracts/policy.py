"""The release policy: the gates of a release, and the triggers that roll it back.

Unknown fields are errors in policies only: a misspelt gate must not be ignored.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from .evaluations import Evaluations, Strict
from .provenance.steps import AttesterPattern, RequiredStep
from .storage.sources import check_pattern
from .trigger_metrics import METRICS, SLO_METRICS, MetricRule, TriggerMetric
from .vocabulary import MAX_COPIES, OnlyFor, Variant

Metric = Literal["ttft_ms", "itl_ms", "e2e_ms", "tps_system", "tps_request", "error_ratio"]
Statistic = Literal["mean", "p50", "p95", "p99"]
FALSE_ALARM_EVERY = 168.0
"""Default of `false_alarm_every`."""
Hours = Annotated[float, Field(ge=1.0, le=87_600.0, exclude_if=lambda hours: hours == FALSE_ALARM_EVERY)]
Objective = Literal["quality", "latency", "cost"]
Seconds = Annotated[float, Field(gt=0)]
JUDGEMENT_S = 21_600.0
SourcePattern = Annotated[str, StringConstraints(max_length=300), AfterValidator(check_pattern)]


class QualityGate(Strict):
    """Limits of a variant's quality loss against the merged model."""

    max_perplexity_ratio: Annotated[float, Field(ge=1.0)] | None = None
    """Maximum perplexity on held-out text, relative to the merged model."""
    max_mean_kl: Annotated[float, Field(ge=0.0)] | None = None
    """Maximum mean Kullback-Leibler divergence from the merged model, in nats per token."""


class MetricGate(Strict):
    """A bound of a benchmark figure, absolute or as a ratio to the baseline."""

    metric: Metric
    """The figure; latencies in milliseconds, throughput in tokens per second."""
    statistic: Statistic = "p95"
    """Statistic over requests; without effect on `tps_system` and `error_ratio`."""
    max_value: float | None = None
    """Upper bound."""
    min_value: float | None = None
    """Lower bound."""
    max_ratio: float | None = None
    """Upper bound of the ratio to the baseline."""
    min_ratio: float | None = None
    """Lower bound of the ratio to the baseline."""

    @property
    def name(self) -> str:
        """Return the name in reports: `ttft_ms.p95`."""
        return self.metric if self.metric in ("tps_system", "error_ratio") else f"{self.metric}.{self.statistic}"

    @model_validator(mode="after")
    def _has_a_bound(self) -> MetricGate:
        if all(bound is None for bound in (self.max_value, self.min_value, self.max_ratio, self.min_ratio)):
            raise ValueError("a gate needs max_value, min_value, max_ratio or min_ratio")
        return self


class LoadProfile(Strict):
    """The open-loop load of a benchmark, the same for candidate and baseline."""

    requests: Annotated[int, Field(ge=1, le=100_000)] = 40
    """Requests to each side."""
    rate_rps: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """Mean rate to each side, requests per second."""
    output_tokens: Annotated[int, Field(ge=1, le=4096)] = 24
    """Tokens of each answer."""
    warmup_requests: Annotated[int, Field(ge=0)] = 2
    """Requests to each side before the measurement."""
    timeout_s: Seconds = 60.0
    """Timeout of a request."""


class Promotion(Strict):
    """The approval of a release."""

    mode: Literal["automatic", "manual"] = "automatic"
    """`manual`: an operator approves before traffic moves."""
    approval_deadline_s: Seconds = 86_400.0
    """Time limit of the approval; then the release expires."""


class Approvals(Strict):
    """Number of approvals and permitted approvers if `promotion.mode` is `manual`."""

    count: Annotated[int, Field(ge=1, le=20)] = 1
    """Number of different approvers of the same digest."""
    not_by_publisher: bool = False
    """Whether the publisher of the checkpoint may not approve."""


PASS_BETA = 0.05
"""Default of `canary.beta`."""


class Canary(Strict):
    """Traffic shares before full promotion; without steps, the release goes to 100 % at once."""

    steps: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Rising shares of production traffic before all traffic. A first version has no canary."""
    only_for: OnlyFor = ()
    """Callers of the first step, as `team:staff` and `key:alice`; its share is that of their requests, and may exceed
    the next step's."""
    min_requests: Annotated[int, Field(ge=1)] = 100
    """Minimum requests of a step before it can pass."""
    beta: Annotated[float, Field(gt=0.0, lt=1.0, exclude_if=lambda beta: beta == PASS_BETA)] = PASS_BETA
    """Probability that a version with twice a trigger's allowed share of bad requests passes the shadow and all steps.
    Smaller values need more requests."""
    deadline_s: Seconds = 3_600.0
    """Time limit of a step."""
    on_deadline: Literal["ask", "promote"] = "ask"
    """Undecided steps at their deadline: `ask` waits for an operator, `promote` continues."""

    @model_validator(mode="after")
    def _steps_rise(self) -> Canary:
        rising = self.steps[bool(self.only_for) :]
        if list(rising) != sorted(rising) or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"canary steps are {list(self.steps)}; each must be above the one before")
        if self.only_for and not self.steps:
            raise ValueError("canary.only_for says whose requests the first step draws, and there is no step")
        return self


class Shadow(Strict):
    """Copies of requests to a candidate before it takes traffic; answers are discarded.

    The shadow precedes the first share of traffic, also without canary steps; a first version has none. Requests are
    drawn before their outcome is known. After the caller's answer, the active version and the candidate are both asked
    again; requests on which they differ decide.
    """

    share_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the active version's requests that are drawn, within spare capacity."""
    duration_s: Seconds = 600.0
    """Minimum time before it can pass."""
    min_requests: Annotated[int, Field(ge=1)] = 100
    """Minimum requests to both versions before it can pass."""
    deadline_s: Seconds = 3_600.0
    """Time limit."""
    on_deadline: Literal["ask", "continue"] = "ask"
    """Without a verdict at the deadline: `ask` waits for an operator, `continue` goes on."""

    @model_validator(mode="after")
    def _can_pass(self) -> Shadow:
        if self.deadline_s <= self.duration_s:
            raise ValueError(
                f"shadow.deadline_s is {self.deadline_s:g} and shadow.duration_s is {self.duration_s:g}: it could "
                "never pass; raise deadline_s"
            )
        return self


class Pairs(Strict):
    """Requests that a canary and the active version are asked again; answers are discarded."""

    share_ratio: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    """Share of the requests of both sides that are drawn before their outcome is known; 0 for none."""


class Trigger(Strict):
    """A limit of a metric (`contracts.trigger_metrics`), and the action on evidence that it is exceeded.

    The threshold limits the figure of each request, with `allowed_ratio` as the permitted share beyond it; or the share
    of bad requests; or, for `goodput_ratio`, the minimum share of good requests.

    Attributes:
        bound: `upper` if figures above the threshold are bad, `lower` if figures below it are; None for the metric's
            own. Only `output_tokens` takes both values.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Unique name in the policy, alerts and rollbacks."""
    metric: TriggerMetric
    """The observed metric."""
    threshold: float
    """Limit of a request's figure, or of the share of bad requests, by metric."""
    bound: Annotated[Literal["upper", "lower"] | None, Field(exclude_if=lambda bound: bound is None)] = None
    allowed_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Permitted share of requests beyond the threshold, for metrics with a figure of each request."""
    own_factor: Annotated[float | None, Field(gt=1.0, le=10.0, exclude_if=lambda factor: factor is None)] = None
    """Also limits an active version to this factor of its share of bad requests in its first hour with traffic; None
    for the declared limit alone."""
    window_s: Seconds = 60.0
    """An alert is resolved after two such periods within the limit; a period with fewer than ten requests is judged by
    the newest ten."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.001
    """Probability of a false alarm about a candidate, in each of two tests per hour of its shadow and of each traffic
    share; for drift, in each comparison. For the active version see `false_alarm_every` of the policy."""
    min_requests: Annotated[int, Field(ge=1)] = 20
    """Minimum requests of a candidate before an alert; they are judged together, to outweigh a cold start. Without
    effect on the active version."""
    action: Literal["automatic", "manual"] = "automatic"
    """`automatic` moves traffic to the previous version and must be rehearsed (for `evaluation_drop`, another trigger
    must); `manual` raises an alert only."""

    @property
    def rule(self) -> MetricRule:
        """Return the declaration of the trigger's metric."""
        return METRICS[self.metric]

    @property
    def is_lower_bound(self) -> bool:
        """Return whether figures below the threshold are bad."""
        return (self.rule.bound or self.bound) == "lower"

    @model_validator(mode="after")
    def _threshold_fits(self) -> Trigger:
        own, (low, high) = self.rule.bound, self.rule.thresholds
        if own is None and self.is_lower_bound:
            low = 1.0
        if not low <= self.threshold <= high:
            upwards = f"from {low:g} to {high:,.16g}" if high < math.inf else f"{low:g} or more"
            raise ValueError(
                f"the trigger {self.name!r}: threshold is {self.threshold:g}; for {self.metric} it must be {upwards}"
            )
        if own is not None and self.bound not in (None, own):
            raise ValueError(
                f"the trigger {self.name!r}: bound is {self.bound}; for {self.metric} it is {own}, so leave it out"
            )
        if self.rule.limits == "distance" and self.own_factor is not None:
            raise ValueError(
                f"the trigger {self.name!r}: {self.metric} is no share of bad requests, so leave own_factor out"
            )
        return self


class Deadlines(Strict):
    """Time limits of the steps in seconds, after which a release expires.

    After `quantise_s` it continues with the quantised variants, if there are any.
    """

    merge_s: Seconds = 3_600.0
    """Until the merged model is stored."""
    quantise_s: Seconds = 14_400.0
    """Until all variants are quantised and measured."""
    stage_s: Seconds = 3_600.0
    """Until the version is registered, and until candidate and baseline are loaded."""
    benchmark_s: Seconds = 3_600.0
    """Until the benchmark's verdict."""
    evaluate_s: Seconds = 3_600.0
    """Until the verdict on the evaluations."""
    rehearsal_s: Seconds = 3_600.0
    """Until the rollback was rehearsed."""
    queue_s: Seconds = 86_400.0
    """Wait of a registered version for earlier releases of its model."""
    traffic_s: Seconds = 1_800.0
    """Until a change of traffic is carried out."""


class ReleasePolicy(Strict):
    """The policy of a release, frozen when it is opened."""

    quality: dict[Variant, QualityGate] = {}
    """Limits of the quality loss of each variant."""
    gates: tuple[MetricGate, ...] = ()
    """Bounds of benchmark figures."""
    load: LoadProfile = LoadProfile()
    """The load of the benchmark."""
    evaluations: Annotated[Evaluations, Field(exclude_if=lambda declared: declared == Evaluations())] = Evaluations()
    """Evaluations of a candidate's answers against the active version and an anchor, before it takes traffic."""
    objective: Objective = "quality"
    """Objective of the choice among passing variants."""
    promotion: Promotion = Promotion()
    """Whether an operator approves."""
    approvals: Approvals = Approvals()
    """Number of approvals of a manual promotion, and permitted approvers."""
    sources: Annotated[tuple[SourcePattern, ...] | None, Field(max_length=64)] = None
    """External folders that weights may come from, such as `hf://acme/*` and `file:///mnt/models/support/*`; by default
    those that the installation allows. The stored policy and the release's own both apply."""
    shadow: Annotated[Shadow | None, Field(exclude_if=lambda shadow: shadow is None)] = None
    """Copies of requests to a candidate before it takes traffic; by default none."""
    canary: Canary = Canary()
    """Traffic shares before all traffic."""
    rehearsal: Literal["required", "not_required"] = "required"
    """Whether each automatic trigger is rehearsed in staging first."""
    rehearsal_valid_s: Seconds = 604_800.0
    """Validity of a rehearsal's certificate."""
    judgement_s: Annotated[Seconds, Field(exclude_if=lambda seconds: seconds == JUDGEMENT_S)] = JUDGEMENT_S
    """Time limit of a suspended version's shadow; then an operator decides."""
    after_move: Annotated[Literal["canary", "stay"], Field(exclude_if=lambda after: after == "canary")] = "canary"
    """A suspended version that its shadow cleared returns as a canary, or stays suspended."""
    serve: Annotated[Literal["merged", "adapter"], Field(exclude_if=lambda serve: serve == "merged")] = "merged"
    """Served form of a LoRA: the merged model, or the adapter, loaded into attached vLLM (`attach --adapters`)."""
    no_previous: Literal["base", "hold"] = "base"
    """Rollback target of a first version: the base model, or (`hold`) none."""
    on_newer: Literal["queue", "supersede"] = "queue"
    """A newer version waits for this release (`queue`), or ends it."""
    triggers: Annotated[tuple[Trigger, ...], Field(min_length=1)]
    """Conditions that raise alerts and roll back; at least one."""
    false_alarm_every: Hours = FALSE_ALARM_EVERY
    """Mean hours with traffic between false alarms of all triggers together about the active version."""
    pairs: Annotated[Pairs, Field(exclude_if=lambda pairs: pairs == Pairs())] = Pairs()
    """Requests that a canary and the active version are asked again; requests on which they differ are evidence."""
    copies: Annotated[int, Field(ge=1, le=MAX_COPIES, exclude_if=lambda copies: copies == 1)] = 1
    """Number of Tritons to load the active version on, fewer without free memory; copies are placed on Tritons without
    the active and the previous version."""
    deadlines: Deadlines = Deadlines()
    """Time limits of the steps."""
    attesters: Annotated[
        dict[RequiredStep, Annotated[tuple[AttesterPattern, ...], Field(min_length=1)]],
        Field(exclude_if=lambda attesters: not attesters),
    ] = {}
    """Services or full key ids that may attest a step; all listed keys for other steps."""

    @property
    def automatic(self) -> tuple[Trigger, ...]:
        """Return the triggers that roll back automatically."""
        return tuple(trigger for trigger in self.triggers if trigger.action == "automatic")

    @property
    def rehearsed(self) -> tuple[Trigger, ...]:
        """Return the automatic triggers that a fault can make fire; they must be rehearsed."""
        return tuple(trigger for trigger in self.automatic if trigger.rule.fault)

    @model_validator(mode="after")
    def _names_are_unique(self) -> ReleasePolicy:
        names = [trigger.name for trigger in self.triggers]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"the trigger name {repeated[0]!r} is used more than once; trigger names must be unique")
        return self

    @model_validator(mode="after")
    def _approvals_are_asked_for(self) -> ReleasePolicy:
        if self.approvals != Approvals() and self.promotion.mode == "automatic":
            raise ValueError(
                "approvals are declared, but promotion.mode is automatic, which asks for no approval; set it to manual"
            )
        return self

    @model_validator(mode="after")
    def _goodput_has_slos(self) -> ReleasePolicy:
        goodput = next((trigger.name for trigger in self.triggers if trigger.metric == "goodput_ratio"), None)
        if goodput is not None and not any(trigger.metric in SLO_METRICS for trigger in self.triggers):
            raise ValueError(
                f"the trigger {goodput!r} (goodput_ratio) counts the requests that meet every SLO, and the policy "
                f"declares none; add a trigger for one of {', '.join(SLO_METRICS)}"
            )
        return self
