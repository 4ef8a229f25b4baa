"""The policy file of `slipway policy init`: each choice with its meaning, rare choices as comments."""

from contracts.precisions import PRECISIONS

TEMPLATE = """\
# Release policy: what a release must prove before it takes traffic, and what rolls it back afterwards.
# `slipway policy explain FILE` says how long its steps take; docs/reference/policy.md has every field.

# The most that each variant may lose by quantisation, on held-out text.
quality:
QUALITY

# Bounds on the benchmark: absolute (max_value, min_value), or relative to the active version (max_ratio, min_ratio).
gates:
  - {metric: error_ratio, max_value: 0.01}
  - {metric: ttft_ms, statistic: p95, max_ratio: 1.5}

# The load of the benchmark, the same for the candidate and what serves now.
load: {requests: 40, rate_rps: 2.0, output_tokens: 24, warmup_requests: 2}

# What answers must be, beside the active version's (docs/guides/is-it-better.md): 120 rows that Slipway brings show
# whether a candidate lost an ability of every chat model. Add sets of your own; a model of one task may leave it out.
evaluations: {sets: [{name: basics, rows: default}]}

# What the choice among the variants that passed optimises: quality, latency or cost.
objective: quality

# automatic, or manual: people approve before traffic moves.
promotion: {mode: automatic}
# promotion: {mode: manual, approval_deadline_s: 86400}
# approvals: {count: 2, not_by_publisher: true}

# Requests that the candidate is asked as well before it takes any traffic; no caller gets its answers.
# shadow: {share_ratio: 0.1, duration_s: 600, min_requests: 100, deadline_s: 3600, on_deadline: ask}

# Shares of production traffic before all of it; without steps the release goes to all traffic at once.
canary: {steps: [0.05, 0.25], min_requests: 200, deadline_s: 3600, on_deadline: ask}

# Each automatic trigger rolls back once in staging before the release may take traffic.
rehearsal: required
# rehearsal_valid_s: 604800

# How long the shadow of a version that an alert suspended may take for a verdict; then a person decides.
# judgement_s: 21600

# What it does once its shadow has cleared it: canary (it returns through the steps below, once by itself) or stay (it
# waits for a person).
# after_move: canary

# What a first version rolls back to: the base model, or (hold) nothing.
no_previous: base

# What of a LoRA is served: merged, or adapter (attached vLLM load it from `slipway attach --adapters`).
serve: merged

# Whether a newer version waits for this release (queue), or ends it (supersede).
on_newer: queue

# What raises an alert. `automatic` rolls back by itself, `manual` leaves that to people.
triggers:
  - {name: slow, metric: ttft_ms, threshold: 1500, allowed_ratio: 0.05, action: automatic}
  - {name: errors, metric: error_ratio, threshold: 0.02, action: automatic}
  - {name: refusals, metric: refusal_ratio, threshold: 0.3, action: manual}
  # - {name: drift, metric: drift, threshold: 0.2, action: manual}
  # - {name: worse, metric: evaluation_drop, threshold: 0.1, action: automatic}   # evaluations: {schedule: {}}

# Hours with traffic in which these triggers together may have one false alarm about the active version.
# false_alarm_every: 168

# The share of the requests that the version and the one before are asked again, so that only what differs counts.
pairs: {share_ratio: 0.02}

# On how many Tritons the version is loaded once it is active, where the fleet has memory for them.
# copies: 2

# Folders outside the store that weights may come from; without it, what the installation allows.
# sources: ["hf://acme/*"]

# How long each step may take before the release ends as expired.
# deadlines: {merge_s: 3600, quantise_s: 14400, stage_s: 3600, benchmark_s: 3600, rehearsal_s: 3600, traffic_s: 1800}

# Who may attest a step; without it, every listed key of the step's service.
# attesters: {merge: [merger]}
""".replace(
    "QUALITY\n",
    "".join(
        f"  {name}: {{max_perplexity_ratio: {precision.perplexity_ratio}}}\n"
        for name, precision in sorted(PRECISIONS.items(), key=lambda each: each[1].perplexity_ratio or 0.0)
        if precision.perplexity_ratio
    ),
)
