"""Prometheus rules: what each says, and series by which it fires and stays quiet (`promtool test rules`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contracts import metrics as m
from contracts.services import OPTIONAL, SERVICES
from decisions.clocks import TOLERANCE_S
from deploy.monitoring.promql import by, increase, quantile, rate

DAY_S: Final = 86_400
Series = Mapping[str, str]
"""Values of series, one a minute, as `promtool` writes them."""


@dataclass(frozen=True)
class Recording:
    """A recording rule: a series that dashboards read instead of computing it."""

    name: str
    expr: str


@dataclass(frozen=True)
class Rule:
    """An alerting rule.

    Attributes:
        name: Name of the alert.
        expr: Fires for each series that it returns.
        for_: How long before it fires.
        severity: `critical`: page the operator on duty. `warning`: today. `info`: to know.
        summary: One line, with labels of the series.
        runbook: The page that says what to do.
        fires: Series by which it fires after 100 minutes.
        quiet: Series by which it does not.
        labels: Labels of the alert that fires by `fires`, besides its severity.
    """

    name: str
    expr: str
    for_: str
    severity: str
    summary: str
    runbook: str
    fires: Series
    quiet: Series
    labels: Mapping[str, str] = field(default_factory=dict)


_BLIND: Final = "2m"
"""The tests have a value a minute, and a rate needs two."""
_TARGET = '{environment="production",target="chat.v2.int8"'

P95_TTFT = Recording("target:slipway_gateway_ttft_seconds:p95_rate5m", quantile(0.95, m.TTFT, "5m", *m.TTFT.labels))
P95_E2E = Recording("target:slipway_gateway_e2e_seconds:p95_rate5m", quantile(0.95, m.E2E, "5m", *m.E2E.labels))
_ALL, _FAILED, _REJECTED = (
    by(rate(m.REQUESTS, "5m", **chosen), *m.TTFT.labels)
    for chosen in ({}, {"outcome": "error"}, {"outcome": "rejected", "environment": "production"})
)
ERROR_RATIO = Recording("target:slipway_gateway_errors:ratio_rate5m", f"({_FAILED} or 0 * {_ALL})\n  / {_ALL}")
RECORDINGS: Final = (P95_TTFT, P95_E2E, ERROR_RATIO)


def _unix(minutes: int, series: str) -> Series:
    """Return a series that holds a Unix time, so many minutes after the begin of a test, which is at 0."""
    return {series: f"{minutes * 60}x120"}


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "SlipwayWatchdog",
        "vector(1)",
        "0m",
        "info",
        "Always fires: an alert on its absence shows that alerts arrive",
        "docs/guides/monitoring.md",
        {},
        {},
    ),
    Rule(
        "SlipwayServiceDown",
        'up{job=~"slipway.*"} == 0',
        "2m",
        "critical",
        "{{ $labels.job }} at {{ $labels.instance }} does not answer",
        "docs/operations.md",
        {'up{job="slipway",instance="monitor:8080"}': "0x120"},
        {'up{job="slipway",instance="monitor:8080"}': "1x120", 'up{job="node",instance="a"}': "0x120"},
        {"job": "slipway", "instance": "monitor:8080"},
    ),
    Rule(
        "SlipwayErrors",
        f'{ERROR_RATIO.name}{{environment="production"}} > 0.05',
        "10m",
        "critical",
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.target }} fail",
        "docs/runbooks/errors.md",
        {
            f'{m.REQUESTS}{_TARGET},outcome="error"}}': "0+10x120",
            f'{m.REQUESTS}{_TARGET},outcome="ok"}}': "0+90x120",
        },
        {
            f'{m.REQUESTS}{_TARGET},outcome="error"}}': "0+1x120",
            f'{m.REQUESTS}{_TARGET},outcome="ok"}}': "0+99x120",
        },
        {"environment": "production", "target": "chat.v2.int8"},
    ),
    Rule(
        "SlipwayAllRejected",
        f"({_REJECTED}) / ({_ALL}) > 0.9",
        "10m",
        "warning",
        "{{ $labels.target }} rejects {{ $value | humanizePercentage }} of its requests: its callers, or the version",
        "docs/runbooks/errors.md",
        {f'{m.REQUESTS}{_TARGET},outcome="rejected"}}': "0+99x120", f'{m.REQUESTS}{_TARGET},outcome="ok"}}': "0+1x120"},
        {
            f'{m.REQUESTS}{_TARGET},outcome="rejected"}}': "0+50x120",
            f'{m.REQUESTS}{_TARGET},outcome="ok"}}': "0+50x120",
        },
        {"environment": "production", "target": "chat.v2.int8"},
    ),
    Rule(
        "SlipwayModelAlertOpen",
        f'max by (kind, severity) ({m.ALERTS_OPEN}{{environment="production",severity="critical"}}) > 0',
        "15m",
        "critical",
        "An alert about {{ $labels.kind }} has been open for 15 minutes: `slipway alerts`",
        "docs/runbooks/README.md",
        {f'{m.ALERTS_OPEN}{{environment="production",kind="errors",severity="critical"}}': "1x120"},
        {f'{m.ALERTS_OPEN}{{environment="staging",kind="errors",severity="critical"}}': "1x120"},
        {"kind": "errors"},
    ),
    Rule(
        "SlipwayMonitorBlind",
        f"{by(rate(m.INPUT_TOKENS, _BLIND), *m.INPUT_TOKENS.labels)} > 0\n  unless "
        f"{by(rate(m.RECORDS_ARRIVED, _BLIND), *m.RECORDS_ARRIVED.labels)} > 0",
        "1m",
        "critical",
        "{{ $labels.target }} answers requests, and the monitor gets no telemetry of it: nothing is watched",
        "docs/runbooks/blind.md",
        {
            f"{m.INPUT_TOKENS}{_TARGET}}}": "0+60x120",
            f"{m.RECORDS_ARRIVED}{_TARGET}}}": "0+60x90 5400x30",
            f'{m.INPUT_TOKENS}{{environment="production",target="mail.v1.int8"}}': "0+60x120",
            f'{m.RECORDS_ARRIVED}{{environment="production",target="mail.v1.int8"}}': "0+60x120",
        },
        {
            f"{m.INPUT_TOKENS}{_TARGET}}}": "0+60x90 5400x30",
            f"{m.RECORDS_ARRIVED}{_TARGET}}}": "0+60x90 5400x30",
        },
        {"environment": "production", "target": "chat.v2.int8"},
    ),
    Rule(
        "SlipwayMonitorSilent",
        f"max({m.ROUTE_SHARE}) > 0\n  unless on () time() - max({m.MONITOR_SWEPT}) < 60",
        "2m",
        "critical",
        "Models are served, and no monitor has decided anything for three minutes: nothing is watched",
        "docs/runbooks/blind.md",
        {f'{m.ROUTE_SHARE}{{target="chat.v2.int8"}}': "1x120", str(m.MONITOR_SWEPT): "0+60x90 5400x30"},
        {f'{m.ROUTE_SHARE}{{target="chat.v2.int8"}}': "1x120", str(m.MONITOR_SWEPT): "0+60x120"},
    ),
    Rule(
        "SlipwayTelemetryLost",
        f"sum by (job, instance) ({increase(m.TELEMETRY_DROPPED, '10m')}) > 0",
        "0m",
        "warning",
        "{{ $labels.instance }} lost telemetry: the monitor sees less than happens",
        "docs/guides/troubleshooting.md",
        {f'{m.TELEMETRY_DROPPED}{{job="slipway",instance="g"}}': "0+1x120"},
        {f'{m.TELEMETRY_DROPPED}{{job="slipway",instance="g"}}': "7x120"},
        {"job": "slipway", "instance": "g"},
    ),
    Rule(
        "SlipwayGatewayWithoutBus",
        f"{m.BUS_CONNECTED} == 0",
        "2m",
        "critical",
        "The gateway {{ $labels.instance }} has no connection to the bus: it follows no rollback",
        "docs/rollbacks.md",
        {f'{m.BUS_CONNECTED}{{instance="g"}}': "0x120"},
        {f'{m.BUS_CONNECTED}{{instance="g"}}': "1x120"},
        {"instance": "g"},
    ),
    Rule(
        "SlipwayRoutesLost",
        f"{m.ROUTES_LOST} + {m.ROUTES_OLDER} > 0",
        "5m",
        "critical",
        "The gateway {{ $labels.instance }} serves routes that the bus lacks, or has older",
        "docs/runbooks/serving.md",
        {f'{m.ROUTES_LOST}{{instance="g"}}': "1x120", f'{m.ROUTES_OLDER}{{instance="g"}}': "0x120"},
        {f'{m.ROUTES_LOST}{{instance="g"}}': "0x120", f'{m.ROUTES_OLDER}{{instance="g"}}': "0x120"},
        {"instance": "g"},
    ),
    Rule(
        "SlipwayConsumerLag",
        f"max by (consumer) ({m.CONSUMER_PENDING}) > 100",
        "10m",
        "warning",
        "{{ $value }} messages wait for {{ $labels.consumer }}",
        "docs/operations.md",
        {f'{m.CONSUMER_PENDING}{{consumer="monitor__inference-v1"}}': "500x120"},
        {f'{m.CONSUMER_PENDING}{{consumer="monitor__inference-v1"}}': "20x120"},
        {"consumer": "monitor__inference-v1"},
    ),
    Rule(
        "SlipwayConsumersUnknown",
        f"time() - {m.CONSUMERS_READ} > 120",
        "5m",
        "warning",
        "{{ $labels.instance }} cannot read its consumers on the bus",
        "docs/guides/troubleshooting.md",
        _unix(1, f'{m.CONSUMERS_READ}{{instance="m"}}'),
        {f'{m.CONSUMERS_READ}{{instance="m"}}': "0+60x120"},
        {"instance": "m"},
    ),
    Rule(
        "SlipwayDeadLetters",
        f"max({m.DEAD_LETTERS}) > 0",
        "1m",
        "warning",
        "{{ $value }} dead letters wait for a decision: `slipway deadletters list`",
        "docs/operations.md",
        {str(m.DEAD_LETTERS): "1x120"},
        {str(m.DEAD_LETTERS): "0x120"},
    ),
    Rule(
        "SlipwayFactUnpublishable",
        f"sum by (fact) ({increase(m.FACTS_UNPUBLISHABLE, '10m')}) > 0",
        "0m",
        "critical",
        "{{ $labels.fact }} is refused by the bus and stays in its record",
        "docs/guides/troubleshooting.md",
        {f'{m.FACTS_UNPUBLISHABLE}{{fact="slipway.alert.raised.v1"}}': "0+1x120"},
        {f'{m.FACTS_UNPUBLISHABLE}{{fact="slipway.alert.raised.v1"}}': "3x120"},
        {"fact": "slipway.alert.raised.v1"},
    ),
    Rule(
        "SlipwayRollbackFailed",
        f"sum by (mode) ({increase(m.ROLLBACKS, '15m', environment='production', outcome='failed')}) > 0",
        "0m",
        "critical",
        "A rollback ({{ $labels.mode }}) was not carried out: `slipway events`",
        "docs/runbooks/rollback.md",
        {f'{m.ROLLBACKS}{{environment="production",mode="automatic",outcome="failed"}}': "0x95 1x30"},
        {
            f'{m.ROLLBACKS}{{environment="production",mode="automatic",outcome="pass"}}': "0x95 1x30",
            f'{m.ROLLBACKS}{{environment="staging",mode="automatic",outcome="failed"}}': "0x95 1x30",
        },
        {"mode": "automatic"},
    ),
    Rule(
        "SlipwayRollbackSlow",
        f"{quantile(0.95, m.ROLLBACK_SECONDS, '1h', environment='production', stage='switch')} > 10",
        "0m",
        "warning",
        "Rollbacks take {{ $value | humanizeDuration }} from the alert to the switched traffic",
        "docs/runbooks/rollback.md",
        {
            f'{m.ROLLBACK_SECONDS.bucket}{{environment="production",stage="switch",le="10"}}': "0x120",
            f'{m.ROLLBACK_SECONDS.bucket}{{environment="production",stage="switch",le="30"}}': "0+1x120",
            f'{m.ROLLBACK_SECONDS.bucket}{{environment="production",stage="switch",le="+Inf"}}': "0+1x120",
        },
        {
            f'{m.ROLLBACK_SECONDS.bucket}{{environment="production",stage="switch",le="0.1"}}': "0+1x120",
            f'{m.ROLLBACK_SECONDS.bucket}{{environment="production",stage="switch",le="+Inf"}}': "0+1x120",
        },
    ),
    Rule(
        "SlipwayStandbyUnproven",
        f"max({m.STANDBYS_UNPROVEN}) > 0",
        "15m",
        "warning",
        "{{ $value }} models have a target to roll back to that is not proven",
        "docs/runbooks/provenance.md",
        {str(m.STANDBYS_UNPROVEN): "1x120"},
        {str(m.STANDBYS_UNPROVEN): "0x120"},
    ),
    Rule(
        "SlipwayDeadlinePassed",
        f"sum by (step) ({increase(m.DEADLINES_PASSED, '15m')}) > 0",
        "0m",
        "info",
        "A release waited longer for {{ $labels.step }} than its policy allows",
        "docs/runbooks/release.md",
        {f'{m.DEADLINES_PASSED}{{step="benchmark"}}': "0x95 1x30"},
        {f'{m.DEADLINES_PASSED}{{step="benchmark"}}': "2x120"},
        {"step": "benchmark"},
    ),
    Rule(
        "SlipwayAgentSilent",
        f"min by (runtime) ({m.AGENT_ANSWERS}) == 0",
        "1m",
        "critical",
        "The agent of Triton {{ $labels.runtime }} does not answer: nothing is loaded, and no dead engine is healed",
        "docs/operations.md",
        {f'{m.AGENT_ANSWERS}{{runtime="default"}}': "0x120"},
        {f'{m.AGENT_ANSWERS}{{runtime="default"}}': "1x120"},
        {"runtime": "default"},
    ),
    Rule(
        "SlipwayRequestsBanned",
        f"sum({increase(m.BODY_BANS, '15m', change='banned')}) > 0",
        "0m",
        "warning",
        "An engine died under requests, which are not sent there again for a while: the gateway's log names them",
        "docs/runbooks/engine.md",
        {f'{m.BODY_BANS}{{change="banned"}}': "0x95 1x30"},
        {f'{m.BODY_BANS}{{change="banned"}}': "3x120", f'{m.BODY_BANS}{{change="refused"}}': "0+1x120"},
    ),
    Rule(
        "SlipwayBodiesWait",
        f"{quantile(0.99, m.BODY_WAIT, '5m')} > 1",
        "5m",
        "warning",
        "Large bodies wait {{ $value | humanizeDuration }} until the gateway processes them: a caller sends very many",
        "docs/runbooks/latency.md",
        {
            f'{m.BODY_WAIT.bucket}{{le="0.5"}}': "0x120",
            f'{m.BODY_WAIT.bucket}{{le="2"}}': "0+1x120",
            f'{m.BODY_WAIT.bucket}{{le="+Inf"}}': "0+1x120",
        },
        {
            f'{m.BODY_WAIT.bucket}{{le="0.5"}}': "0+1x120",
            f'{m.BODY_WAIT.bucket}{{le="2"}}': "0+1x120",
            f'{m.BODY_WAIT.bucket}{{le="+Inf"}}': "0+1x120",
        },
    ),
    Rule(
        "SlipwayFleetMemory",
        f"max({m.MEMORY_RESERVED}) / max({m.MEMORY_BUDGET}) > 0.95",
        "30m",
        "warning",
        "{{ $value | humanizePercentage }} of the fleet's memory is reserved: releases will wait",
        "docs/guides/sizing.md",
        {str(m.MEMORY_RESERVED): "98x120", str(m.MEMORY_BUDGET): "100x120"},
        {str(m.MEMORY_RESERVED): "60x120", str(m.MEMORY_BUDGET): "100x120"},
    ),
    Rule(
        "SlipwayClockWrong",
        f"abs({m.CLOCK_OFFSET}) > {TOLERANCE_S:g}",
        "5m",
        "warning",
        "The clock of {{ $labels.gateway }} is {{ $value | humanizeDuration }} off",
        "docs/runbooks/clock.md",
        {f'{m.CLOCK_OFFSET}{{gateway="g"}}': f"{-TOLERANCE_S - 5:g}x120"},
        {f'{m.CLOCK_OFFSET}{{gateway="g"}}': "0.2x120"},
        {"gateway": "g"},
    ),
    Rule(
        "SlipwayNotificationsWait",
        f"sum by (receiver) ({increase(m.NOTIFICATIONS, '5m', outcome='failed')}) > 0",
        "10m",
        "critical",
        "{{ $labels.receiver }} has taken no notification for 10 minutes",
        "docs/guides/monitoring.md",
        {f'{m.NOTIFICATIONS}{{receiver="pager",outcome="failed"}}': "0+2x120"},
        {f'{m.NOTIFICATIONS}{{receiver="pager",outcome="failed"}}': "2x120"},
        {"receiver": "pager"},
    ),
    Rule(
        "SlipwayCertificateExpires",
        f"min by (certificate) ({m.CERTIFICATE_EXPIRY}) - time() < {14 * DAY_S}",
        "1h",
        "warning",
        "The certificate {{ $labels.certificate }} expires in {{ $value | humanizeDuration }}",
        "docs/security.md",
        _unix(600, f'{m.CERTIFICATE_EXPIRY}{{certificate="bus"}}'),
        _unix(60 * 24 * 90, f'{m.CERTIFICATE_EXPIRY}{{certificate="bus"}}'),
        {"certificate": "bus"},
    ),
    Rule(
        "SlipwayApiKeyExpires",
        f"min({m.API_KEY_EXPIRY}) - time() < {3 * DAY_S}",
        "1h",
        "warning",
        "A key of the API expires in {{ $value | humanizeDuration }}: `slipway keys list`",
        "docs/security.md",
        _unix(600, str(m.API_KEY_EXPIRY)),
        {str(m.API_KEY_EXPIRY): " ".join(["Inf"] * 120)},
    ),
)


def _group(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "rules": rules}


def render() -> dict[str, Any]:
    """Return the rules as Prometheus reads them."""
    recordings = [{"record": rule.name, "expr": rule.expr} for rule in RECORDINGS]
    alerts = [
        {
            "alert": rule.name,
            "expr": rule.expr,
            "for": rule.for_,
            "labels": {"severity": rule.severity},
            "annotations": {"summary": rule.summary, "runbook_url": rule.runbook},
        }
        for rule in RULES
    ]
    return {"groups": [_group("slipway.recordings", recordings), _group("slipway.alerts", alerts)]}


def render_scrapes() -> dict[str, Any]:
    """Return a configuration of Prometheus that scrapes services by their names, as `compose.yaml` has them."""
    ports = {"gateway": 8081}
    started = [service for service in SERVICES if service not in OPTIONAL]  # a target that is not there is an alert
    targets = [f"{service}:{ports.get(service, 8080)}" for service in started]
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "slipway", "static_configs": [{"targets": targets}]}],
    }
