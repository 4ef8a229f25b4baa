"""The Grafana dashboards: fleet, model, release, platform."""

from typing import Final

from contracts import metrics as m
from deploy.monitoring.panels import Dashboard, Panel, Query, Row
from deploy.monitoring.promql import by, increase, mean, quantile, rate, select, total
from deploy.monitoring.rules import ERROR_RATIO, P95_E2E, P95_TTFT

_EVERY = "$__rate_interval"
_PROD: Final = {"environment": "production"}
_OF_MODEL: Final = {"environment": "production", "target": "~$model[.].*"}
_TARGET_OF_MODEL: Final = {"target": "~$model[.].*"}
_REGEX = r"/^([^.]+)[.].*$/"


def _by_model(expr: str) -> str:
    """Return an expression summed by model, which is the first part of a target's name."""
    return f'sum by (model) (label_replace({expr}, "model", "$1", "target", "([^.]+)[.].*"))'


def _quantiles(title: str, metric: m.Metric, width: int = 12) -> Panel:
    queries = [
        Query(quantile(ratio, metric, _EVERY, "target", **_OF_MODEL), f"p{ratio * 100:g} {{{{target}}}}")
        for ratio in (0.5, 0.95, 0.99)
    ]
    return Panel(title, queries, "s", width=width)


def _stat(title: str, expr: str, danger: float | None = 1, unit: str = "short", width: int = 4) -> Panel:
    return Panel(title, [Query(expr, title)], unit, "stat", width, danger)


def _open(severity: str) -> str:
    return f"sum(max by (kind) ({select(m.ALERTS_OPEN, severity=severity, **_PROD)})) or vector(0)"


def _slowest(title: str, metric: m.Metric, *group: str) -> Panel:
    legend = " ".join(f"{{{{{label}}}}}" for label in group) or "all"
    return Panel(title, [Query(quantile(0.95, metric, "24h", *group), legend)], "s")


FLEET = Dashboard(
    "slipway-fleet",
    "Slipway / Fleet",
    "All models: what serves, whether it is well, what happened.",
    [
        Row(
            "Now",
            [
                _stat("Open critical alerts", _open("critical")),
                _stat("Open warnings", _open("warning")),
                _stat("Rollbacks in 24 h", f"{total(increase(m.ROLLBACKS, '24h', **_PROD))} or vector(0)"),
                _stat("Releases under way", f"sum(max by (step) ({m.RELEASES})) or vector(0)", None),
                _stat("Requests in flight", total(select(m.IN_FLIGHT, **_PROD)), None),
                _stat(
                    "Fleet memory reserved", f"max({m.MEMORY_RESERVED}) / max({m.MEMORY_BUDGET})", 0.95, "percentunit"
                ),
            ],
        ),
        Row(
            "Traffic",
            [
                Panel("Requests by model", [Query(_by_model(rate(m.REQUESTS, _EVERY, **_PROD)), "{{model}}")], "reqps"),
                Panel(
                    "Failed requests",
                    [Query(f'{ERROR_RATIO.name}{{environment="production"}}')],
                    "percentunit",
                    danger=0.05,
                ),
                Panel("TTFT, p95", [Query(f'{P95_TTFT.name}{{environment="production"}}')], "s"),
                Panel("End to end, p95", [Query(f'{P95_E2E.name}{{environment="production"}}')], "s"),
                Panel("Share of traffic", [Query(f"max by (target) ({m.ROUTE_SHARE}) > 0")], "percentunit"),
                Panel(
                    "Generated tokens by model",
                    [Query(_by_model(rate(m.OUTPUT_TOKENS, _EVERY, **_PROD)), "{{model}}")],
                    "short",
                ),
            ],
        ),
        Row(
            "Alerts and rollbacks",
            [
                Panel(
                    "Open alerts by kind",
                    [Query(f"max by (kind, severity) ({select(m.ALERTS_OPEN, **_PROD)})", "{{kind}} ({{severity}})")],
                ),
                Panel(
                    "Rollbacks by outcome",
                    [Query(by(increase(m.ROLLBACKS, "1h", **_PROD), "mode", "outcome"), "{{mode}}: {{outcome}}")],
                ),
                Panel(
                    "Stages of a rollback, p95",
                    [Query(quantile(0.95, m.ROLLBACK_SECONDS, "24h", "stage", **_PROD), "{{stage}}")],
                    "s",
                ),
                Panel(
                    "Notifications",
                    [Query(by(increase(m.NOTIFICATIONS, "1h"), "receiver", "outcome"), "{{receiver}}: {{outcome}}")],
                ),
                Panel("Changes of routes", [Query(by(increase(m.ROUTE_CHANGES, "1h"), "cause"), "{{cause}}")]),
            ],
        ),
        Row(
            "Serving",
            [
                Panel("Targets by phase", [Query(f"max by (phase) ({m.TARGETS})", "{{phase}}")]),
                Panel(
                    "Memory by target",
                    [Query(f"max by (target) ({m.TARGET_MEMORY}) > 0"), Query(f"max({m.MEMORY_BUDGET})", "budget")],
                    "bytes",
                ),
                Panel(
                    "Copies by target",
                    [
                        Query(f"max by (target, count) ({m.COPIES})", "{{target}}: {{count}}"),
                    ],
                ),
            ],
        ),
    ],
)

MODEL = Dashboard(
    "slipway-model",
    "Slipway / Model",
    "One model: its versions side by side.",
    [
        Row(
            "Traffic",
            [
                Panel("Share of traffic", [Query(select(m.ROUTE_SHARE, **_TARGET_OF_MODEL))], "percentunit"),
                Panel(
                    "Requests by outcome",
                    [Query(by(rate(m.REQUESTS, _EVERY, **_OF_MODEL), "target", "outcome"), "{{target}} {{outcome}}")],
                    "reqps",
                ),
                Panel(
                    "Failed requests by code",
                    [Query(by(rate(m.ERRORS, _EVERY, **_OF_MODEL), "target", "code"), "{{target}} {{code}}")],
                    "reqps",
                ),
                Panel(
                    "Tokens",
                    [
                        Query(by(rate(m.INPUT_TOKENS, _EVERY, **_OF_MODEL), "target"), "{{target}} in"),
                        Query(by(rate(m.OUTPUT_TOKENS, _EVERY, **_OF_MODEL), "target"), "{{target}} out"),
                    ],
                ),
            ],
        ),
        Row(
            "Latency by version",
            [
                _quantiles("Time to first token", m.TTFT, 24),
                _quantiles("End to end", m.E2E),
                _quantiles("Time between tokens", m.ITL),
            ],
        ),
        Row(
            "Quality and memory",
            [
                Panel(
                    "Drift by feature",
                    [Query(f"max by (target, feature) ({select(m.DRIFT, **_OF_MODEL)})", "{{target}} {{feature}}")],
                    "percentunit",
                ),
                Panel("Memory", [Query(f"max by (target) ({select(m.TARGET_MEMORY, **_TARGET_OF_MODEL)})")], "bytes"),
                Panel("Requests of drills", [Query(by(rate(m.DRILLED, _EVERY, **_OF_MODEL), "target"))], "reqps"),
            ],
        ),
    ],
    variable=("model", f"label_values({m.REQUESTS}, target)", _REGEX),
)

RELEASE = Dashboard(
    "slipway-release",
    "Slipway / Releases",
    "From checkpoint to production: where releases are, how they end, what they wait for.",
    [
        Row(
            "Under way",
            [
                Panel("Releases by step", [Query(f"max by (step) ({m.RELEASES})", "{{step}}")]),
                Panel("Staging orders that wait", [Query(f"max({m.LEASES_WAITING})", "waiting")], width=6),
                Panel("Deadlines passed", [Query(by(increase(m.DEADLINES_PASSED, "1h"), "step"), "{{step}}")], width=6),
            ],
        ),
        Row(
            "Outcome",
            [
                Panel(
                    "Releases that ended",
                    [Query(by(increase(m.RELEASES_FINISHED, "24h"), "outcome", "code"), "{{outcome}} {{code}}")],
                ),
                Panel("Gates", [Query(by(increase(m.GATES, "24h"), "gate", "verdict"), "{{gate}}: {{verdict}}")]),
                Panel(
                    "Variants that failed",
                    [
                        Query(
                            by(increase(m.VARIANTS_FAILED, "24h"), "step", "variant", "code"),
                            "{{variant}}: {{step}} {{code}}",
                        )
                    ],
                ),
                Panel(
                    "Mirror",
                    [
                        Query(by(increase(m.MIRROR_WRITES, "24h"), "registry"), "{{registry}}: written"),
                        Query(by(increase(m.MIRROR_FAILURES, "24h"), *m.MIRROR_FAILURES.labels), "failures"),
                        Query(f"max({m.MIRROR_BEHIND})", "models behind"),
                    ],
                ),
                Panel("Rehearsals", [Query(by(increase(m.REHEARSALS, "24h"), "verdict"), "{{verdict}}")]),
            ],
        ),
        Row(
            "Time",
            [
                Panel("Mean time of a step", [Query(mean(m.STEP_SECONDS, "24h", "step"), "{{step}}")], "s"),
                _slowest("Whole releases, p95", m.RELEASE_SECONDS, "outcome"),
                _slowest("Quantisation, p95", m.QUANTISE_SECONDS, "variant"),
                _slowest("Loading, p95", m.LOAD_SECONDS),
            ],
        ),
    ],
)

PLATFORM = Dashboard(
    "slipway-platform",
    "Slipway / Platform",
    "The parts of Slipway itself: whether they run, keep up and are trusted for long enough.",
    [
        Row(
            "Now",
            [
                _stat("Parts that do not answer", 'count(up{job=~"slipway.*"} == 0) or vector(0)'),
                _stat("Dead letters", f"max({m.DEAD_LETTERS})"),
                _stat("Longest lag", f"max({m.CONSUMER_PENDING})", 100),
                _stat("Gateways without the bus", f"count({m.BUS_CONNECTED} == 0) or vector(0)"),
                _stat("Next certificate expires in", f"min({m.CERTIFICATE_EXPIRY}) - time()", None, "s"),
                _stat("Next API key expires in", f"min({m.API_KEY_EXPIRY}) - time()", None, "s"),
            ],
        ),
        Row(
            "Events",
            [
                Panel("Lag of consumers", [Query(f"max by (consumer) ({m.CONSUMER_PENDING})", "{{consumer}}")]),
                Panel(
                    "Unacknowledged messages",
                    [Query(f"max by (consumer) ({m.CONSUMER_UNACKNOWLEDGED})", "{{consumer}}")],
                ),
                Panel(
                    "Handled by outcome", [Query(by(rate(m.FACTS_HANDLED, _EVERY), "outcome"), "{{outcome}}")], "ops"
                ),
                Panel("Handling, p95", [Query(quantile(0.95, m.HANDLING, _EVERY, "fact"), "{{fact}}")], "s"),
                Panel("Published", [Query(by(rate(m.FACTS_PUBLISHED, _EVERY), "fact"), "{{fact}}")], "ops"),
                Panel(
                    "Refused for ever",
                    [Query(by(increase(m.FACTS_UNPUBLISHABLE, "1h"), "fact"), "{{fact}}")],
                    danger=1,
                ),
            ],
        ),
        Row(
            "Gateways",
            [
                Panel(
                    "Rejected callers",
                    [Query(by(rate(m.REJECTED, _EVERY), "environment", "status"), "{{environment}} {{status}}")],
                    "reqps",
                ),
                Panel(
                    "Workers",
                    [Query(f"sum({m.WORKERS_READY})", "ready"), Query(f"sum({m.WORKERS})", "running")],
                ),
                Panel(
                    "Telemetry lost",
                    [
                        Query(total(rate(m.TELEMETRY_DROPPED, _EVERY)), "dropped"),
                        Query(f"max(deriv({m.TELEMETRY_SHED}[5m]))", "batches dropped by the bus"),
                        Query(by(rate(m.UNDESCRIBED, _EVERY), "reason"), "undescribed: {{reason}}"),
                        Query(total(rate(m.RECORDS_IMPLAUSIBLE, _EVERY)), "implausible"),
                    ],
                ),
                Panel("Clocks", [Query(str(m.CLOCK_OFFSET), "{{gateway}}")], "s"),
                Panel(
                    "Second attempts, slow readers",
                    [
                        Query(by(rate(m.RETRIES, _EVERY), "reason"), "second attempts: {{reason}}"),
                        Query(total(rate(m.SLOW_READERS, _EVERY)), "slow readers"),
                    ],
                ),
                Panel("Wait of large bodies, p99", [Query(quantile(0.99, m.BODY_WAIT, "5m"), "p99")], "s", danger=1.0),
                Panel(
                    "Pairs: requests that two versions answer",
                    [Query(f"sum by (result) ({rate(m.MIRRORED, _EVERY)})", "{{result}}")],
                ),
                Panel(
                    "Shadows: requests that a candidate is asked unseen",
                    [Query(f"sum by (result) ({rate(m.SHADOWED, _EVERY)})", "{{result}}")],
                ),
                Panel(
                    "Requests that the fallback answers after a failure",
                    [Query(f"sum by (result) ({rate(m.RESCUED, _EVERY)})", "{{result}}")],
                ),
                Panel(
                    "Requests under which an engine died",
                    [Query(f"sum by (change) ({rate(m.BODY_BANS, _EVERY)})", "{{change}}")],
                ),
                Panel(
                    "Endpoints that do not serve a target, and return",
                    [Query(f"sum by (endpoint, change) (increase({m.EJECTIONS}[1h]))", "{{endpoint}} {{change}}")],
                ),
                Panel(
                    "Restarts of workers",
                    [Query(f"sum by (instance) (increase({m.WORKER_STARTS}[1h]))", "{{instance}}")],
                ),
            ],
        ),
        Row(
            "Trust",
            [
                Panel(
                    "Certificates expire in",
                    [Query(f"min by (certificate) ({m.CERTIFICATE_EXPIRY}) - time()", "{{certificate}}")],
                    "s",
                ),
                Panel("Builds", [Query(f"count by (service, version) ({m.BUILD_INFO})", "")], kind="table"),
            ],
        ),
    ],
)

DASHBOARDS: Final = {"fleet": FLEET, "model": MODEL, "release": RELEASE, "platform": PLATFORM}
