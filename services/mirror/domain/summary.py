"""A version's description in a registry: a few lines of Markdown with commands for more."""

from typing import Final

from decisions.releases.model_cards import inline
from decisions.releases.version_history import VersionHistory

CHARS: Final = 4000
"""Maximum characters of a description; most of MLflow's databases keep 5,000."""


def summarise(history: VersionHistory) -> str:
    """Summarise a version: lineage, measurements, and commands to verify it."""
    manifest = history.manifest
    registered = f"{manifest.registered_at:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"{inline(history.name)}, registered {registered} by release {inline(manifest.release_id)}.",
        f"Base: {inline(manifest.base.name)} at {inline(manifest.base.revision)}.",
        f"Training run: {inline(manifest.training.run_id)}, data {inline(manifest.training.data_hash)}.",
    ]
    for variant, report in history.latest_benchmarks():
        lines.append(f"Benchmark of {variant.variant} against {inline(str(report.baseline))}: {report.verdict}.")
    for evaluated, result in history.latest_results():
        scores = "; ".join(f"{each.scorer} {each.candidate:.3f} (active {each.active:.3f})" for each in result.whole)
        beside = inline(str(evaluated.baseline))
        lines.append(f"Evaluation {result.name} against {beside}: {result.verdict}; {scores}.")
    lines.append(f"Verify: `slipway verify {history.name}`. Card: `slipway card {history.name}`.")
    text = "\n\n".join(lines)
    return text if len(text) <= CHARS else text[: CHARS - 1] + "…"
