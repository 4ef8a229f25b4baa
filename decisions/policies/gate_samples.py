"""The fewest requests of a benchmark figure, and the gates of a policy that its own load can never answer."""

from contracts.policy import MetricGate, ReleasePolicy, Statistic

REQUESTS_NEEDED: dict[Statistic, int] = {"mean": 1, "p50": 1, "p95": 20, "p99": 100}
"""Of a figure of one side."""
PAIRS_NEEDED = 20
"""Of a ratio of both sides, at least."""


def find_unanswerable(policy: ReleasePolicy) -> str | None:
    """Return why a gate of a policy would be inconclusive after every benchmark of its load; None if none would."""
    load = policy.load
    for gate in policy.gates:
        needed = requests_needed(gate)
        if needed > load.requests:
            return (
                f"load.requests is {load.requests}, but the gate {gate.name} needs {needed}; set it to {needed} or "
                "more, or bound another statistic."
            )
        if gate.metric == "itl_ms" and load.output_tokens < 2:
            return (
                f"load.output_tokens is {load.output_tokens}, but the gate {gate.name} needs 2, because it is the time "
                "between tokens; set it to 2 or more, or bound another metric."
            )
    return None


def requests_needed(gate: MetricGate) -> int:
    """Return the fewest requests to each side that can answer a gate."""
    if gate.metric == "error_ratio":
        return 1
    own = 1 if gate.metric == "tps_system" else REQUESTS_NEEDED[gate.statistic]
    return own if gate.max_ratio is None and gate.min_ratio is None else max(own, PAIRS_NEEDED)
