"""A version's tags in a registry: lineage, evaluations, measurements, deployments, digests."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from contracts.version import VERSION
from contracts.vocabulary import digest_of
from decisions.releases.version_history import VersionHistory

PREFIX: Final = "slipway."
VALUE_CHARS: Final = 5000
"""MLflow's limit for tag values; longer ones end with an ellipsis."""
KEY_CHARS: Final = 250
_MOST_DEPLOYMENTS = 20
_UNSAFE = re.compile(r"[^A-Za-z0-9_. -]")


def version_tags(history: VersionHistory) -> dict[str, str]:
    """Return a version's tags, with names and values within MLflow's limits.

    External names (hyperparameters, evaluations) keep letters, digits and `_. -`. Other characters become `_`, and part
    of a digest keeps names distinct.
    """
    tags: dict[str, str] = {}
    for parts in (_identity, _training, _measured, _deployed):
        tags |= {PREFIX + name: _value(value) for name, value in parts(history)}
    return tags


def _identity(history: VersionHistory) -> Iterator[tuple[str, Any]]:
    manifest = history.manifest
    yield "version", manifest.version
    yield "model", manifest.model
    yield "release", manifest.release_id
    yield "release_key", manifest.release_key
    yield "manifest_digest", history.digest
    yield "made_by", f"slipway {VERSION}"
    yield "registered_at", manifest.registered_at.isoformat()
    yield "policy_digest", manifest.policy_digest
    yield "merged_digest", manifest.merged.digest
    yield "weights", manifest.weights.kind
    yield "weights_digest", manifest.weights.ref.digest


def _training(history: VersionHistory) -> Iterator[tuple[str, Any]]:
    manifest, training = history.manifest, history.manifest.training
    yield "base", manifest.base.name
    yield "base_revision", manifest.base.revision
    yield "base_digest", manifest.base.digest
    yield "training_run", training.run_id
    yield "training_data_hash", training.data_hash
    if training.framework:
        yield "training_framework", training.framework
    for name, value in training.hyperparameters.items():
        yield _named("hyperparameter", name), value
    for result in manifest.evals:
        yield _named("eval", f"{result.name}.{result.metric}"), result.value


def _measured(history: VersionHistory) -> Iterator[tuple[str, Any]]:
    for registered in history.manifest.variants:
        name = f"variant.{registered.variant}"
        yield f"{name}.digest", registered.manifest.digest
        yield f"{name}.bytes", registered.weights_bytes
        yield f"{name}.perplexity_ratio", registered.quality.perplexity_ratio
    for variant, report in history.latest_benchmarks():
        name = f"benchmark.{variant.variant}"
        candidate = report.candidate_summary
        yield f"{name}.verdict", report.verdict
        yield f"{name}.baseline", str(report.baseline)
        yield f"{name}.tps_system", candidate.tps_system
        for quantile in ("p50", "p95", "p99"):
            if (value := getattr(candidate.ttft_ms, quantile)) is not None:
                yield f"{name}.ttft_ms_{quantile}", value
        for gate in report.gates:
            yield _named(f"gate.{variant.variant}", gate.name), gate.verdict
    for _, result in history.latest_results():
        name = f"evaluation.{result.name}"
        yield f"{name}.verdict", result.verdict
        yield f"{name}.rows_digest", result.rows_digest
        for score in result.whole:
            yield f"{name}.score.{score.scorer}", round(score.candidate, 4)
            yield f"{name}.active.{score.scorer}", round(score.active, 4)
    for name, record in history.latest_rehearsals().items():
        yield f"rehearsal.{name}", record.completed.verdict


def _deployed(history: VersionHistory) -> Iterator[tuple[str, Any]]:
    records = history.deployments
    if not records:
        return
    yield "first_deployed_at", records[0].deployed_at.isoformat()
    yield "last_deployed_at", records[-1].deployed_at.isoformat()
    yield "deployment_count", len(records)
    yield (
        "deployments",
        [
            f"{record.deployed_at.isoformat()} {record.cause} {record.target.variant} {record.weight_ratio:g}"
            for record in records[-_MOST_DEPLOYMENTS:]
        ],
    )


def _named(kind: str, name: str) -> str:
    """Return a tag name with an external part, made safe and unique."""
    longest = KEY_CHARS - len(PREFIX) - len(kind) - 1
    safe = _UNSAFE.sub("_", name)
    if safe != name or len(safe) > longest or not safe.strip(" ."):
        suffix = "~" + digest_of(name.encode(errors="surrogatepass")).removeprefix("sha256:")[:8]
        safe = safe[: longest - len(suffix)] + suffix.replace("~", "-")
    return f"{kind}.{safe}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode(errors="replace").decode() or '""'  # MLflow treats an empty value as missing
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"
