"""The release policy: the gates of a release, and the triggers that roll it back.

Unknown fields are errors in a policy, and only there: a misspelt gate must not become a missing one.
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
"""Hours in which the triggers of an active version may have one false alarm together, unless a policy says."""
Hours = Annotated[float, Field(ge=1.0, le=87_600.0, exclude_if=lambda hours: hours == FALSE_ALARM_EVERY)]
Objective = Literal["quality", "latency", "cost"]
Seconds = Annotated[float, Field(gt=0)]
JUDGEMENT_S = 21_600.0
SourcePattern = Annotated[str, StringConstraints(max_length=300), AfterValidator(check_pattern)]


class QualityGate(Strict):
    """The most quality a variant may lose against the merged model."""

    max_perplexity_ratio: Annotated[float, Field(ge=1.0)] | None = None
    """Highest perplexity on held-out text, relative to the merged model."""
    max_mean_kl: Annotated[float, Field(ge=0.0)] | None = None
    """Highest mean Kullback-Leibler divergence from the merged model, in nats per token."""


class MetricGate(Strict):
    """A bound on a benchmark figure, absolute or as a ratio to the baseline (higher figures bounded below)."""

    metric: Metric
    """What is bounded; latencies in milliseconds, throughput in tokens per second."""
    statistic: Statistic = "p95"
    """The statistic of the requests' figures; without effect on `tps_system` and `error_ratio`."""
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
        """Return the name of the gate in reports: `ttft_ms.p95`."""
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
    """Requests to each side that are sent first and count in no figure."""
    timeout_s: Seconds = 60.0
    """Most time of one request; a longer one failed."""


class Promotion(Strict):
    """Whether an operator must approve, and the deadline of the approval."""

    mode: Literal["automatic", "manual"] = "automatic"
    """`manual`: an operator approves before traffic moves."""
    approval_deadline_s: Seconds = 86_400.0
    """How long a release waits for approval; then it expires."""


class Approvals(Strict):
    """Number of approvals and permitted approvers; used if `promotion.mode` is `manual`."""

    count: Annotated[int, Field(ge=1, le=20)] = 1
    """Different people who must approve the same digest."""
    not_by_publisher: bool = False
    """Whether an approval by the publisher of the checkpoint is refused."""


PASS_BETA = 0.05
"""The probability with which a candidate of twice a limit passes, unless a policy says."""


class Canary(Strict):
    """Traffic shares before full promotion; without steps the release goes to 100 % at once."""

    steps: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Shares of production traffic, rising; after the last one the target gets all. A first version has no canary."""
    only_for: OnlyFor = ()
    """Whose requests the first step draws alone, as `team:staff` and `key:alice`; its share is of theirs, and may be
    above that of the next step."""
    min_requests: Annotated[int, Field(ge=1)] = 100
    """Fewest requests of a step before it can pass."""
    beta: Annotated[float, Field(gt=0.0, lt=1.0, exclude_if=lambda beta: beta == PASS_BETA)] = PASS_BETA
    """Probability that a version with twice the bad requests that a trigger allows passes the shadow and all steps. A
    smaller one needs more requests."""
    deadline_s: Seconds = 3_600.0
    """Most time of one step."""
    on_deadline: Literal["ask", "promote"] = "ask"
    """What happens to a step that is undecided at its deadline: it waits, and a person is asked, or it goes on."""

    @model_validator(mode="after")
    def _steps_rise(self) -> Canary:
        rising = self.steps[bool(self.only_for) :]
        if list(rising) != sorted(rising) or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"canary steps are {list(self.steps)}; each must be above the one before")
        if self.only_for and not self.steps:
            raise ValueError("canary.only_for says whose requests the first step draws, and there is no step")
        return self


class Shadow(Strict):
    """Requests of callers that a candidate is asked as well before it takes any traffic; its answers are thrown away.

    It comes before the first share of traffic, also where there are no canary steps; a first version has none. The
    requests are drawn before their outcome. When a caller has its answer, the active version and the candidate are both
    asked the same again, and where they differ decides.
    """

    share_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the active version's requests that are drawn; requests are only asked again within spare capacity."""
    duration_s: Seconds = 600.0
    """Least time before it can pass."""
    min_requests: Annotated[int, Field(ge=1)] = 100
    """Fewest requests that both versions were asked before it can pass."""
    deadline_s: Seconds = 3_600.0
    """Most time; without a verdict by then, too few requests were compared, or chance is not excluded."""
    on_deadline: Literal["ask", "continue"] = "ask"
    """What happens at the deadline without a verdict: a person is asked, or the release goes on to its traffic."""

    @model_validator(mode="after")
    def _can_pass(self) -> Shadow:
        if self.deadline_s <= self.duration_s:
            raise ValueError(
                f"shadow.deadline_s is {self.deadline_s:g} and shadow.duration_s is {self.duration_s:g}: it could "
                "never pass; raise deadline_s"
            )
        return self


class Pairs(Strict):
    """Requests that a canary and the active version are asked again; the answers are thrown away."""

    share_ratio: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    """Share of the requests of both sides, drawn before their outcome, that both are asked again; 0 for none."""


class Trigger(Strict):
    """A limit on a metric, declared before deployment, and the action when evidence says that it is exceeded.

    The threshold bounds a figure of each request, and `allowed_ratio` the requests beyond it; or it bounds the share of
    bad requests, or for `goodput_ratio` the least share of good ones. `contracts.trigger_metrics` declares the metrics.

    Attributes:
        bound: `upper` if figures above the threshold are bad, `lower` if those below it are; None for the metric's own,
            which is `lower` for `logprob_mean` and `goodput_ratio`. Only `output_tokens` takes either: two triggers
            bound it on both sides.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Unique in the policy; alerts and rollbacks name it."""
    metric: TriggerMetric
    """What is observed of each request."""
    threshold: float
    """Limit of the figure of a request, or of the share of bad requests, by metric."""
    bound: Annotated[Literal["upper", "lower"] | None, Field(exclude_if=lambda bound: bound is None)] = None
    allowed_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of requests that may be beyond the threshold, for metrics with a figure of each request."""
    own_factor: Annotated[float | None, Field(gt=1.0, le=10.0, exclude_if=lambda factor: factor is None)] = None
    """While the version is active, at most this factor of its own share of bad requests in its first hour with traffic
    is allowed, too; None for the declared limit alone."""
    window_s: Seconds = 60.0
    """An alert is resolved when so long a time, or the newest ten requests if it had fewer, was within the limit, and
    stayed so as long again."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.001
    """Probability of a false alarm of a candidate, in each of two tests in an hour of its shadow and of each share of
    traffic, and of drift in each comparison. Of the active version, `false_alarm_every` of the policy says how often
    there is one."""
    min_requests: Annotated[int, Field(ge=1)] = 20
    """Fewest requests of a candidate before there is an alert, judged together when they are complete, so that a cold
    start among them is outweighed. The active version needs none: its evidence is counted in blocks of two seconds."""
    action: Literal["automatic", "manual"] = "automatic"
    """`automatic` moves traffic to the previous version at once and must be rehearsed (`evaluation_drop`: another one
    must); `manual` raises an alert."""

    @property
    def rule(self) -> MetricRule:
        """Return the declaration of the trigger's metric."""
        return METRICS[self.metric]

    @property
    def is_lower_bound(self) -> bool:
        """Return whether figures below the threshold are bad, so that a lower threshold asks for less."""
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
    """Time limit of each step, in seconds, after which a release ends as expired.

    After `quantise_s` it continues with the variants that are quantised, and ends only if there is none.
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
    """How long a registered version waits for an earlier release of its model."""
    traffic_s: Seconds = 1_800.0
    """Until a change of traffic is carried out."""


class ReleasePolicy(Strict):
    """Everything a release must satisfy, frozen when it is opened."""

    quality: dict[Variant, QualityGate] = {}
    """The most that each variant may lose by quantisation."""
    gates: tuple[MetricGate, ...] = ()
    """Bounds on figures of the benchmark."""
    load: LoadProfile = LoadProfile()
    """The load of the benchmark."""
    evaluations: Annotated[Evaluations, Field(exclude_if=lambda declared: declared == Evaluations())] = Evaluations()
    """What answers of a candidate must be, beside the active version's and an anchor's, before it takes traffic."""
    objective: Objective = "quality"
    """What the choice among passing variants optimises."""
    promotion: Promotion = Promotion()
    """Whether an operator approves."""
    approvals: Approvals = Approvals()
    """How many approve a manual promotion, and who may."""
    sources: Annotated[tuple[SourcePattern, ...] | None, Field(max_length=64)] = None
    """Folders outside the store that weights may come from, such as `hf://acme/*` and `file:///mnt/models/support/*`.

    Without it, what the installation allows. A release must satisfy the stored policy's and its own.
    """
    shadow: Annotated[Shadow | None, Field(exclude_if=lambda shadow: shadow is None)] = None
    """Requests that a candidate is asked unseen before it takes traffic; without it, there is no shadow."""
    canary: Canary = Canary()
    """Traffic shares before all traffic."""
    rehearsal: Literal["required", "not_required"] = "required"
    """Whether each automatic trigger is rehearsed in staging first."""
    rehearsal_valid_s: Seconds = 604_800.0
    """How long a rehearsal's certificate counts."""
    judgement_s: Annotated[Seconds, Field(exclude_if=lambda seconds: seconds == JUDGEMENT_S)] = JUDGEMENT_S
    """How long the shadow of a version that an alert suspended may take for a verdict; then a person decides."""
    after_move: Annotated[Literal["canary", "stay"], Field(exclude_if=lambda after: after == "canary")] = "canary"
    """What a version does that an alert suspended and its shadow cleared: it returns as a canary, or waits."""
    serve: Annotated[Literal["merged", "adapter"], Field(exclude_if=lambda serve: serve == "merged")] = "merged"
    """What of a LoRA is served: the merged model, or the adapter, loaded into attached vLLM (`attach --adapters`)."""
    no_previous: Literal["base", "hold"] = "base"
    """What a first version rolls back to: the base model, or (`hold`) nothing."""
    on_newer: Literal["queue", "supersede"] = "queue"
    """Whether a newer version waits for this release, or ends it."""
    triggers: Annotated[tuple[Trigger, ...], Field(min_length=1)]
    """What raises alerts and rolls back; at least one."""
    false_alarm_every: Hours = FALSE_ALARM_EVERY
    """Hours with traffic in which the triggers together may have one false alarm about the active version."""
    pairs: Annotated[Pairs, Field(exclude_if=lambda pairs: pairs == Pairs())] = Pairs()
    """Requests that a canary and the active version are asked again, so that only what differs is evidence."""
    copies: Annotated[int, Field(ge=1, le=MAX_COPIES, exclude_if=lambda copies: copies == 1)] = 1
    """On how many Tritons the version is loaded once it is active; fewer where the fleet has no more for it.

    A copy is loaded only where the version that is active, or behind, is not, and where the memory for it is free.
    """
    deadlines: Deadlines = Deadlines()
    """How long each step may take."""
    attesters: Annotated[
        dict[RequiredStep, Annotated[tuple[AttesterPattern, ...], Field(min_length=1)]],
        Field(exclude_if=lambda attesters: not attesters),
    ] = {}
    """Who may attest a step: services, or full ids of keys. A step that is not named takes every listed key."""

    @property
    def automatic(self) -> tuple[Trigger, ...]:
        """Return the triggers that roll back without an operator."""
        return tuple(trigger for trigger in self.triggers if trigger.action == "automatic")

    @property
    def rehearsed(self) -> tuple[Trigger, ...]:
        """The automatic triggers that a fault can make fire; each of them must have been rehearsed."""
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
