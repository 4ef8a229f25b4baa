"""The model card of a version: YAML metadata (model-index) and description in Markdown."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from contracts.evaluations.results import EvaluationResult
from contracts.facts import EvalResult, RegisteredVariant
from contracts.facts.staging import SideSummary
from contracts.manifests import BenchmarkReport
from decisions.checkpoints.adapters import describe_quantised
from decisions.releases.version_history import VersionHistory
from decisions.serving.settings import describe_settings

CELL_CHARS: Final = 500
"""Maximum characters of an external text; longer ones end with an ellipsis."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_PLAIN_KEY = re.compile(r"[a-z][a-z_-]*[a-z]", re.ASCII)
_RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off"})
"""Plain YAML words that are not texts."""
_ESCAPED = frozenset("\\`*_[]|~$")


def inline(text: str) -> str:
    """Return a text escaped for a line of Markdown: without markup, links, HTML, line breaks or invisible characters.

    An empty text becomes `-`: a row of empty cells would end a table.
    """
    plain = " ".join("".join(_visible(text)).split()) or "-"
    if len(plain) > CELL_CHARS:
        plain = plain[: CELL_CHARS - 1] + "…"
    escaped = "".join(
        _ENTITIES.get(character, f"\\{character}" if character in _ESCAPED else character) for character in plain
    )
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;").replace("WWW.", "WWW&#46;")


def _visible(text: str) -> Iterator[str]:
    """Yield the characters without controls, formats (which reorder text), surrogates and private ones."""
    for character in text:
        category = unicodedata.category(character)
        if category in ("Zs", "Zl", "Zp") or character in "\t\n\r":
            yield " "
        elif not category.startswith("C"):
            yield character


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells in Markdown."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def yaml_block(value: Any, indent: int = 0) -> str:
    """Return JSON data as block YAML with quoted texts."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_key(key)}:{_nested(item, indent + 1)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_nested(item, indent + 1)}" for item in value)
    return f"{pad}{scalar(value)}\n"


def _nested(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return f"\n{yaml_block(value, indent)}"
    return f" {scalar(value)}\n"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key not in _RESERVED else scalar(key)


def scalar(value: Any) -> str:
    """Return a scalar in YAML: JSON with escapes of characters that YAML does not print."""
    if isinstance(value, str):
        value = value.encode(errors="replace").decode()
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, float) and "." not in text:  # YAML takes 1e-05 for a text
        return text.replace("e", ".0e")
    return "".join(character if _printed(character) else f"\\U{ord(character):08x}" for character in text)


def _printed(each: str) -> bool:
    return each.isprintable() and each != "\ufeff"


__all__ = ["inline", "render_card"]

_MOST_DEPLOYMENTS = 20
_QUANTILES = ("p50", "p95", "p99")


def render_card(history: VersionHistory, *, merged: bool = False) -> str:
    """Return the model card of a version; deterministic.

    Args:
        history: The version.
        merged: Whether the card describes the merged model instead of the published weights.
    """
    sections = (
        _title, _intended_use, _training, _evaluations, _answers, _variants, _benchmarks, _rehearsals, _approvals,
        _deployments, _limits, _verification,
    )  # fmt: skip
    body = "\n".join(text for section in sections if (text := section(history)))
    return f"---\n{yaml_block(metadata(history, merged=merged))}---\n\n{body}"


def metadata(history: VersionHistory, *, merged: bool = False) -> dict[str, Any]:
    """Return the metadata of the card, in the fields that the Hugging Face Hub reads."""
    manifest = history.manifest
    lora = manifest.weights.kind == "lora" and not merged
    return {
        "base_model": manifest.base.name,
        "base_model_relation": "adapter" if lora else "finetune",
        "library_name": "peft" if lora else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["slipway"],
        "model-index": [
            {
                "name": manifest.model,
                "results": [
                    *(_evaluation_result(result) for result in manifest.evals),
                    *(_measured_result(result) for _, result in history.latest_results()),
                    *(_quality_result(variant) for variant in manifest.variants),
                ],
            }
        ],
    }


def _evaluation_result(result: EvalResult) -> dict[str, Any]:
    name = result.name or "unnamed"
    return _result(name, [{"type": result.metric or "unnamed", "value": result.value}])


def _measured_result(result: EvaluationResult) -> dict[str, Any]:
    metrics = [{"type": each.scorer, "value": each.candidate} for each in result.whole]
    return _result(f"{result.name}, measured by Slipway", metrics)


def _quality_result(variant: RegisteredVariant) -> dict[str, Any]:
    metrics = [
        {"type": "perplexity_ratio", "value": variant.quality.perplexity_ratio},
        {"type": "mean_kl", "value": variant.quality.mean_kl},
    ]
    return _result(f"held-out text, {variant.variant} against the merged model", metrics)


def _result(dataset: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    kind = "".join(
        character if character.isascii() and (character.isalnum() or character in "-_.") else "-"
        for character in dataset
    )
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": kind or "unnamed", "name": dataset},
        "metrics": metrics,
    }


# -- sections -------------------------------------------------------------------------------------------------------


def _title(history: VersionHistory) -> str:
    manifest = history.manifest
    serving = describe_settings(manifest.serving)
    rows = [
        ("base model", f"{inline(manifest.base.name)} at {inline(manifest.base.revision)}"),
        ("base digest", f"`{manifest.base.digest}`"),
        ("published weights", f"{manifest.weights.kind}, `{manifest.weights.ref.digest}`"),
        ("merged model", f"`{manifest.merged.digest}`"),
        ("version manifest", f"`{history.digest}`"),
        ("release", inline(manifest.release_id)),
        ("registered", f"{manifest.registered_at:%Y-%m-%d %H:%M:%S} UTC"),
        *([("serving settings", inline(serving))] if serving else []),
    ]
    return (
        f"# {manifest.model} v{manifest.version}\n\nGenerated by Slipway from the records of version {history.name}; "
        f"figures are measured unless a section says otherwise.\n\n{table(('', ''), rows)}"
    )


def _intended_use(_history: VersionHistory) -> str:
    return (
        "## Intended use\n\nAs stated by the publisher of the checkpoint; its event has no such statement. Slipway "
        "measures a model and does not decide what it is for.\n"
    )


def _training(history: VersionHistory) -> str:
    training = history.manifest.training
    rows = [
        ("run", inline(training.run_id)),
        ("data hash", f"`{training.data_hash}`"),
        *([("framework", inline(training.framework))] if training.framework else []),
        *([("finished", f"{training.finished_at:%Y-%m-%d %H:%M:%S}")] if training.finished_at else []),
    ]
    text = f"## Training\n\nAs stated by the publisher.\n\n{table(('', ''), rows)}"
    base = history.manifest.quantised_base
    if base is not None:
        text += f"\nIt was {inline(describe_quantised(base))}.\n"
    if training.hyperparameters:
        values = [(inline(str(name)), inline(str(value))) for name, value in training.hyperparameters.items()]
        text += f"\n{table(('hyperparameter', 'value'), values)}"
    return text


def _evaluations(history: VersionHistory) -> str:
    if not history.manifest.evals:
        return ""
    rows = [
        (
            inline(evaluation.name),
            inline(evaluation.metric),
            f"{evaluation.value:g}",
            "higher" if evaluation.higher_is_better else "lower",
        )
        for evaluation in history.manifest.evals
    ]
    head = ("evaluation", "metric", "value", "better")
    return f"## Evaluations\n\nAs stated by the publisher.\n\n{table(head, rows)}"


def _answers(history: VersionHistory) -> str:
    """Return the scores of the last evaluation of answers."""
    texts = []
    for report, result in history.latest_results():
        rows = [
            (
                each.scorer,
                inline(each.slice) if each.slice else "all",
                str(each.rows),
                f"{each.candidate:.3f}",
                f"{each.active:.3f}",
                f"{each.low:+.3f} to {each.high:+.3f}",
            )
            for each in result.scores
        ]
        beside = f"{report.target.variant} against {inline(str(report.baseline))}"
        drops = [
            (limit.scorer, inline(limit.slice) if limit.slice else "all", str(limit.rows), f"{limit.value:.3f}")
            for limit in result.limits
            if limit.kind == "max_drop_from_anchor" and limit.value is not None
        ]
        below = f"\n{table(('scorer', 'slice', 'rows', f'below {inline(str(result.anchor))}'), drops)}" if drops else ""
        head = ("scorer", "slice", "rows", "candidate", "active", "difference, 95 %")
        texts.append(f"### {result.name}: {result.verdict}\n\n{beside}, the same rows.\n\n{table(head, rows)}{below}")
    return "## Answers\n\nMean scores from 0 to 1.\n\n" + "\n".join(texts) if texts else ""


def _variants(history: VersionHistory) -> str:
    rows = [
        (
            variant.variant,
            f"{variant.weights_bytes / 1e6:,.1f} MB",
            f"{variant.size_ratio:.3f}",
            f"{variant.quality.perplexity_ratio:.4f}",
            f"{variant.quality.mean_kl:.5f}",
            f"{variant.quality.top1_agreement_ratio:.2%}",
            f"`{variant.manifest.digest}`",
        )
        for variant in history.manifest.variants
    ]
    head = ("variant", "size", "size ratio", "perplexity ratio", "mean KL (nats)", "same top token", "manifest")
    return f"## Variants\n\nQuality on held-out text, against the merged model.\n\n{table(head, rows)}"


def _benchmarks(history: VersionHistory) -> str:
    texts = [_benchmark(variant, report) for variant, report in history.latest_benchmarks()]
    return "## Benchmark\n\n" + ("\n".join(texts) or "No attested benchmark.\n")


def _benchmark(variant: RegisteredVariant, report: BenchmarkReport) -> str:
    candidate, baseline = report.candidate_summary, report.baseline_summary
    figures = zip(_figures(candidate), _figures(baseline), strict=True)
    rows = [(name, value, other) for (name, value), (_, other) in figures]
    gates = [
        (inline(gate.name), gate.verdict, _number(gate.value), _number(gate.limit), inline(gate.reason))
        for gate in report.gates
    ]
    measured = f"{report.started_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"### {variant.variant}: {report.verdict}\n\n"
        f"Against {inline(str(report.baseline))}, requests in turns, {measured}.\n\n"
        f"{table(('figure', 'candidate', 'baseline'), rows)}\n"
        f"{table(('gate', 'verdict', 'value', 'limit', 'reason'), gates)}"
    )


def _figures(side: SideSummary) -> Iterator[tuple[str, str]]:
    yield "requests", str(side.requests)
    yield "errors", str(side.errors)
    for name, statistics in (("TTFT", side.ttft_ms), ("ITL", side.itl_ms), ("end to end", side.e2e_ms)):
        for quantile in _QUANTILES:
            yield f"{name} {quantile} (ms)", _number(getattr(statistics, quantile))
    yield "tokens per second and request p50", _number(side.tps_request.p50)
    yield "tokens per second in all", _number(side.tps_system)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _rehearsals(history: VersionHistory) -> str:
    rows = []
    for variant, record in history.latest_rehearsals().items():
        times = [
            f"{certificate.detect_s + certificate.switch_s + certificate.verify_s:.1f} s"
            for certificate in record.completed.certificates
        ]
        triggers = ", ".join(inline(certificate.trigger) for certificate in record.completed.certificates) or "-"
        rows.append(
            (variant, record.completed.verdict, triggers, ", ".join(times) or "-", inline(record.completed.reason))
        )
    head = ("variant", "verdict", "triggers", "fault to recovery", "reason")
    return "## Rehearsed rollback\n\n" + (table(head, rows) if rows else "No attested rehearsal.\n")


def _approvals(history: VersionHistory) -> str:
    if not history.approvals:
        return ""
    rows = [
        (
            approval.target.variant,
            inline(approval.approved_by),
            f"{approval.approved_at:%Y-%m-%d %H:%M:%S} UTC",
            inline(approval.reason),
        )
        for approval in history.approvals
    ]
    return f"## Approvals\n\n{table(('variant', 'by', 'at', 'reason'), rows)}"


def _deployments(history: VersionHistory) -> str:
    if not history.deployments:
        return "## Deployments\n\nNone yet.\n"
    rows = [
        (
            f"{deployment.deployed_at:%Y-%m-%d %H:%M:%S} UTC",
            deployment.target.variant,
            inline(deployment.cause),
            f"{deployment.weight_ratio:.0%}",
        )
        for deployment in history.deployments[-_MOST_DEPLOYMENTS:]
    ]
    earlier = len(history.deployments) - len(rows)
    more = f"\n{earlier} earlier ones are left out.\n" if earlier else ""
    return f"## Deployments\n\n{table(('at', 'variant', 'cause', 'share of traffic'), rows)}{more}"


def _limits(history: VersionHistory) -> str:
    limits = [
        "Latency and throughput are those of the benchmark's machine and load; measure again on other hardware.",
        "Quality of a variant is its distance from the merged model on held-out text, not its fitness for a task.",
        "Slipway did not see the training data; its hash, the hyperparameters and the evaluations are the publisher's.",
        "Refusals, safety and bias were not evaluated unless an evaluation above names them.",
    ]
    if history.manifest.serving is not None and history.manifest.serving.context_tokens is not None:
        limits.append(f"The context is limited to {history.manifest.serving.context_tokens} tokens.")
    if history.problem:
        limits.append(f"Records after the first of these problems are left out: {inline(history.problem)}")
    return "## Limits\n\n" + "".join(f"- {limit}\n" for limit in limits)


def _verification(history: VersionHistory) -> str:
    return (
        "## How to verify\n\n```sh\n"
        f"slipway verify {history.name} --files   # every byte back to the base model, by signed attestations\n"
        f"slipway card {history.name}             # this card, from what is attested now\n```\n"
    )
