"""Prometheus metrics: names for programs, reference, dashboards and rules."""

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Shared = Literal["livesum", "livemin", "livemax"]
"""Combination of a gauge's values in several processes (multiprocess modes of prometheus_client)."""

OTHER: Final = "other"
"""Label value for all values beyond `LABEL_VALUES`."""
LABEL_VALUES: Final = 500
"""Maximum number of models, or targets, with a label value in one process."""

HANDLING_S: Final = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800)
TTFT_S: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30, 60)
ITL_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5, 20)
E2E_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
SWITCH_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEP_S: Final = (1, 5, 15, 60, 180, 600, 1800, 3600, 10800, 43200, 86400)


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: Exported name, including `_total` of counters, without `_bucket`, `_sum` and `_count` of histograms.
        text: Description.
        labels: Names of the labels.
        buckets: Upper limits of a histogram's buckets.
        services: Services that export the metric; empty for all.
        shared: Combination of a gauge's values over the gateway's workers.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    services: tuple[str, ...] = ()
    shared: Shared = "livemax"

    def __str__(self) -> str:
        return self.name

    @property
    def bucket(self) -> str:
        """Return the name of a histogram's bucket series."""
        return f"{self.name}_bucket"

    @property
    def sum(self) -> str:
        """Return the name of a histogram's sum series."""
        return f"{self.name}_sum"

    @property
    def count(self) -> str:
        """Return the name of a histogram's count series."""
        return f"{self.name}_count"

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names of all exported series."""
        return (self.bucket, self.sum, self.count) if self.kind == "histogram" else (self.name,)


# -- every service ----------------------------------------------------------------------------------------------------

BUILD_INFO = Metric("slipway_build_info", "gauge", "1; its labels say which build runs", ("service", "version"))
FACTS_HANDLED = Metric("slipway_facts_handled_total", "counter", "Facts handled", ("fact", "outcome"))
FACTS_PUBLISHED = Metric("slipway_facts_published_total", "counter", "Facts published", ("fact", "environment"))
FACTS_UNPUBLISHABLE = Metric(
    "slipway_facts_unpublishable_total",
    "counter",
    "Tries to publish a fact that was refused permanently and stays in its record",
    ("fact",),
)
HANDLING = Metric(
    "slipway_handling_seconds", "histogram", "Seconds from receipt to acknowledgement", ("fact",), HANDLING_S
)
CONSUMER_PENDING = Metric(
    "slipway_consumer_pending_messages", "gauge", "Messages that a consumer has not received: its lag", ("consumer",)
)
CONSUMER_UNACKNOWLEDGED = Metric(
    "slipway_consumer_unacknowledged_messages",
    "gauge",
    "Messages that a consumer has received and not acknowledged: handled now, or waiting for their next try",
    ("consumer",),
)
TELEMETRY_SHED = Metric(
    "slipway_telemetry_shed_messages", "gauge", "Batches of telemetry that the bus dropped before they were received"
)
CONSUMERS_READ = Metric(
    "slipway_consumers_read_timestamp_seconds",
    "gauge",
    "When the bus last answered how far this service's consumers are, in Unix time",
)
CERTIFICATE_EXPIRY = Metric(
    "slipway_certificate_expiry_timestamp_seconds",
    "gauge",
    "When a certificate that this service uses expires, in Unix time",
    ("certificate",),
)

# -- gateway ----------------------------------------------------------------------------------------------------------

_GATEWAY: Final = ("gateway",)
_BY_TARGET: Final = ("environment", "target")
_gateway: Final = partial(Metric, services=_GATEWAY)

REQUESTS = _gateway(
    "slipway_gateway_requests_total", "counter", "Requests by target and outcome", (*_BY_TARGET, "outcome")
)
ERRORS = _gateway("slipway_gateway_errors_total", "counter", "Failed requests by code", (*_BY_TARGET, "code"))
DRILLED = _gateway("slipway_gateway_drilled_total", "counter", "Requests that a drill affected", _BY_TARGET)
REJECTED = _gateway(
    "slipway_gateway_rejected_total",
    "counter",
    "Requests that were rejected before they reached a target, by HTTP status",
    ("environment", "status"),
)
TTFT = _gateway("slipway_gateway_ttft_seconds", "histogram", "First text minus arrival", _BY_TARGET, TTFT_S)
ITL = _gateway("slipway_gateway_itl_seconds", "histogram", "Mean time between tokens of a request", _BY_TARGET, ITL_S)
E2E = _gateway(
    "slipway_gateway_e2e_seconds",
    "histogram",
    "End of the answer minus arrival, of answers without an error",
    _BY_TARGET,
    E2E_S,
)
INPUT_TOKENS = _gateway("slipway_gateway_input_tokens_total", "counter", "Tokens of prompts", _BY_TARGET)
OUTPUT_TOKENS = _gateway("slipway_gateway_output_tokens_total", "counter", "Generated tokens", _BY_TARGET)
IN_FLIGHT = _gateway(
    "slipway_gateway_in_flight", "gauge", "Requests being answered", ("environment",), shared="livesum"
)
BODY_WAIT = _gateway("slipway_gateway_body_wait_seconds", "histogram", "Wait of bodies above 8 KiB", (), HANDLING_S)
RETRIES = _gateway(
    "slipway_gateway_retries_total", "counter", "Second attempts, by code of the first", ("environment", "reason")
)
EJECTIONS = _gateway(
    "slipway_gateway_ejections_total", "counter", "Endpoints ejected or returned, by target", ("endpoint", "change")
)
TELEMETRY_DROPPED = _gateway(
    "slipway_gateway_telemetry_dropped_total", "counter", "Records dropped: queue full, or batch unpublishable"
)
UNDESCRIBED = _gateway(
    "slipway_gateway_undescribed_total",
    "counter",
    "Answers of the sample without features of their text; of `form`, only not judged by the form that was asked",
    ("reason",),
)
SLOW_READERS = _gateway(
    "slipway_gateway_slow_readers_total", "counter", "Answers given up because their callers read nothing"
)
MIRRORED = _gateway(
    "slipway_gateway_mirrored_total",
    "counter",
    "Requests drawn for a pair: paired, unknown (an outcome shows nothing), or shed for want of capacity",
    ("result",),
)
SHADOWED = _gateway("slipway_gateway_shadowed_total", "counter", "Requests drawn for a shadow, by result", ("result",))
RESCUED = _gateway(
    "slipway_gateway_rescued_total",
    "counter",
    "Requests that the engine failed before any token: answered by the fallback, failed there, or over_budget",
    ("result",),
)
BODY_BANS = _gateway(
    "slipway_gateway_body_bans_total",
    "counter",
    "Bodies at deaths of engines: banned, or refused",
    ("change",),
)
WORKERS_READY = _gateway("slipway_gateway_workers_ready", "gauge", "Workers that can serve", shared="livesum")
WORKERS = _gateway("slipway_gateway_workers", "gauge", "Workers that run", shared="livesum")
WORKER_STARTS = _gateway("slipway_gateway_worker_starts_total", "counter", "Starts of workers since the gateway's")
BUS_CONNECTED = _gateway("slipway_gateway_bus_connected", "gauge", "1 while the bus is connected", shared="livemin")
ROUTES_LOST = _gateway(
    "slipway_gateway_routes_lost",
    "gauge",
    "Models that are served without a route in the bucket",
)
ROUTES_OLDER = _gateway(
    "slipway_gateway_routes_older", "gauge", "Models whose route in the bucket is older than the served one"
)
ROUTE_SHARE = _gateway(
    "slipway_gateway_route_share_ratio",
    "gauge",
    "Share of a model's production traffic that a target takes, 0 to 1",
    ("target",),
)
API_KEY_EXPIRY = _gateway(
    "slipway_gateway_api_key_next_expiry_timestamp_seconds",
    "gauge",
    "When the next key of the API that still counts expires, in Unix time; +Inf if none does",
)

# -- releases ---------------------------------------------------------------------------------------------------------

_REGISTRY: Final = ("registry",)

RELEASES = Metric(
    "slipway_releases", "gauge", "Releases under way, by the step they wait for", ("step",), (), _REGISTRY
)
RELEASES_FINISHED = Metric(
    "slipway_releases_finished_total",
    "counter",
    "Releases that ended; the code is empty where there is none",
    ("outcome", "code"),
    services=_REGISTRY,
)
RELEASE_SECONDS = Metric(
    "slipway_release_seconds",
    "histogram",
    "From the opening of a release to its end",
    ("outcome",),
    STEP_S,
    _REGISTRY,
)
STEP_SECONDS = Metric(
    "slipway_release_step_seconds",
    "histogram",
    "Time of a step of a release, counted when the release ends",
    ("step",),
    STEP_S,
    _REGISTRY,
)
DEADLINES_PASSED = Metric(
    "slipway_deadlines_passed_total",
    "counter",
    "Steps that took longer than the policy allows",
    ("step",),
    services=_REGISTRY,
)
DEAD_LETTERS = Metric("slipway_dead_letters", "gauge", "Dead letters that are stored", (), (), _REGISTRY)
VARIANTS_FAILED = Metric(
    "slipway_variants_failed_total",
    "counter",
    "Variants that will not be served, by the step that failed",
    ("step", "variant", "code"),
    (),
    ("registry", "quantiser", "server-manager", "benchmarker", "evaluator"),
)
QUANTISE_SECONDS = Metric(
    "slipway_quantise_seconds",
    "histogram",
    "Time of a quantisation with its measurement",
    ("variant",),
    STEP_S,
    ("quantiser",),
)
GATES = Metric(
    "slipway_gates_total", "counter", "Gates that were assessed, by verdict", ("gate", "verdict"), (), ("benchmarker",)
)

# -- serving ----------------------------------------------------------------------------------------------------------

_SERVING: Final = ("server-manager",)

TARGETS = Metric("slipway_targets", "gauge", "Targets that the fleet holds, by phase", ("phase",), (), _SERVING)
TARGET_MEMORY = Metric("slipway_target_memory_bytes", "gauge", "Memory reserved, by target", ("target",), (), _SERVING)
COPIES = Metric("slipway_target_copies", "gauge", "Copies, asked and serving", ("target", "count"), (), _SERVING)
MEMORY_RESERVED = Metric(
    "slipway_fleet_memory_reserved_bytes", "gauge", "Memory reserved for targets of the fleet", (), (), _SERVING
)
MEMORY_BUDGET = Metric(
    "slipway_fleet_memory_budget_bytes", "gauge", "Memory that targets of the fleet may take", (), (), _SERVING
)
LEASES_WAITING = Metric("slipway_staging_waiting", "gauge", "Staging orders that wait for the fleet", (), (), _SERVING)
AGENT_ANSWERS = Metric("slipway_agent_answers", "gauge", "1 while a Triton's agent answers", ("runtime",), (), _SERVING)
LOAD_SECONDS = Metric(
    "slipway_target_load_seconds", "histogram", "Time to load a candidate for staging", (), STEP_S, _SERVING
)
ROUTE_CHANGES = Metric(
    "slipway_route_changes_total",
    "counter",
    "Changes of routes",
    ("environment", "cause"),
    (),
    ("server-manager", "rollback-controller"),
)

# -- alerts, drift, rollbacks -----------------------------------------------------------------------------------------

_ROLLBACK: Final = ("rollback-controller",)
_monitor: Final = partial(Metric, services=("monitor",))

ALERTS_OPEN = Metric(
    "slipway_alerts_open",
    "gauge",
    "Open alerts that this service raised, by kind",
    ("environment", "kind", "severity"),
    services=("monitor", "server-manager"),
)
CLOCK_OFFSET = _monitor(
    "slipway_gateway_clock_offset_seconds",
    "gauge",
    "Seconds that a gateway's clock is ahead of the bus's",
    ("gateway",),
)
RECORDS_ARRIVED = _monitor(
    "slipway_monitor_records_total",
    "counter",
    "Telemetry records that the monitor got, counted or not",
    ("environment", "target"),
)
MONITOR_SWEPT = _monitor(
    "slipway_monitor_swept_timestamp_seconds",
    "gauge",
    "When the monitor last decided what is due for a model, in Unix time",
    (),
)
RECORDS_IMPLAUSIBLE = _monitor(
    "slipway_records_implausible_total", "counter", "Records that cannot be true and were ignored", ("gateway",)
)
DRIFT = _monitor(
    "slipway_drift_statistic_ratio",
    "gauge",
    "Largest distance of the last comparison between a target's answers and its reference (Kolmogorov-Smirnov, 0 to 1)",
    ("environment", "target", "feature"),
)
ROLLBACKS = Metric(
    "slipway_rollbacks_total",
    "counter",
    "Rollbacks that ended; `outcome` is the verdict on the recovery, or `failed`",
    ("environment", "mode", "outcome"),
    services=_ROLLBACK,
)
ROLLBACK_SECONDS = Metric(
    "slipway_rollback_seconds",
    "histogram",
    "Time of a stage of a rollback: detect (first bad request to alert), switch (alert to switched traffic), verify",
    ("environment", "stage"),
    SWITCH_S,
    _ROLLBACK,
)
REHEARSALS = Metric("slipway_rehearsals_total", "counter", "Rehearsals that ended", ("verdict",), (), _ROLLBACK)
MIRROR_WRITES = Metric(
    "slipway_mirror_versions_written_total", "counter", "Versions written to a registry", ("registry",), (), ("mirror",)
)
MIRROR_FAILURES = Metric(
    "slipway_mirror_failures_total",
    "counter",
    "Turns of a model in a registry that failed: the registry is `unavailable`, or it is this `model`'s",
    ("registry", "kind"),
    (),
    ("mirror",),
)
MIRROR_BEHIND = Metric(
    "slipway_mirror_models_behind",
    "gauge",
    "Models that a registry may not show as they are, because they changed or failed",
    ("registry",),
    (),
    ("mirror",),
)

# -- notifications ----------------------------------------------------------------------------------------------------

_NOTIFIER: Final = ("notifier",)

NOTIFICATIONS = Metric(
    "slipway_notifications_total",
    "counter",
    "Tries to send an alert to a receiver: sent or failed",
    ("receiver", "outcome"),
    (),
    _NOTIFIER,
)

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All metrics in the order of their declaration."""
