"""Parts of facts: targets, routes, policies, records of requests; plausible by default, changed by keyword."""

from datetime import UTC, datetime, timedelta
from typing import Any

from contracts import facts as f
from contracts.envelope import source_of
from contracts.evaluations.results import EvaluationSummary, LimitResult, ScoreSummary
from contracts.facts.progress import ReleaseProgress, StepProgress
from contracts.facts.staging import NaturalAnswers, SideSummary
from contracts.facts.watch import Features, InterTokenLatency, Window
from contracts.policy import Canary, LoadProfile, MetricGate, Promotion, QualityGate, ReleasePolicy, Trigger
from contracts.routes import CanaryShare, Route, ServedTarget
from contracts.services import emitters
from contracts.vocabulary import ArtifactRef, Deployable, Target, digest_of

MODEL = "support-bot"
RELEASE = "support-bot-7-1c9f02d4"
START = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PUBLISHER, OPERATOR = "support-training", "jonas"
"""Identities of the outsiders in samples and tests."""


def source_for(kind: type[f.Fact]) -> str:
    """Return the `source` of an event as an identity sends it that may: the monitor, else the first service."""
    outsider = PUBLISHER if kind is f.CheckpointReady else OPERATOR
    services = emitters(kind)
    return source_of("monitor" if "monitor" in services else (*services, outsider)[0])


def after(seconds: float) -> datetime:
    """Return the time so many seconds after START."""
    return START + timedelta(seconds=seconds)


def digest(word: str) -> str:
    return digest_of(word.encode())


def evaluation(**about: Any) -> EvaluationSummary:
    """Return a set of rows that the candidate answered as well as the active version."""
    limit = LimitResult(
        scorer="length", kind="max_drop", limit=0.2, value=0.0, low=-0.08, high=0.08, rows=48, decision="met"
    )
    scores = [
        ScoreSummary(scorer="length", slice=name, rows=rows, candidate=0.95, active=0.95, low=-0.08, high=0.08)
        for name, rows in (("", 48), ("stops", 8))
    ]
    known = {"name": "basics", "rows_digest": digest_of(b"rows"), "asked": 48, "available": 60}
    found = {"limits": (limit,), "scores": scores, "worse": (3,), "better": (8, 11), "verdict": "pass"}
    return EvaluationSummary.model_validate(known | found | about)


def ref(word: str, kind: str = "manifests/merged", size_bytes: int = 4096) -> ArtifactRef:
    content = digest(word)
    uri = f"s3://slipway/{kind}/{content.removeprefix('sha256:')}.json"
    return ArtifactRef(uri=uri, digest=content, size_bytes=size_bytes)


def target(version: int = 7, variant: str = "int8", model: str = MODEL) -> Target:
    return Target(model=model, version=version, variant=variant)


def deployable(version: int = 7, variant: str = "int8", model: str = MODEL) -> Deployable:
    named = target(version, variant, model)
    return Deployable(target=named, manifest=ref(str(named), "manifests/variant"), weights_bytes=165_000_000)


def served(version: int = 7, variant: str = "int8", model: str = MODEL, **changes) -> ServedTarget:
    about = {
        "endpoints": ("127.0.0.1:8001",),
        "chat_template": CHATML,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "context_tokens": 2048,
    }
    return ServedTarget(**(dict(deployable(version, variant, model)) | about | changes))


def route(**changes) -> Route:
    whole = {
        "model": MODEL,
        "epoch": 12,
        "active": served(7),
        "previous": served(6),
        "history": (served(5),),
        "canary": CanaryShare(served=served(8), weight_ratio=0.1),
        "quarantined": (target(4),),
        "cause_id": "c-12",
    }
    return Route(**(whole | changes))


def trigger(**changes) -> Trigger:
    whole = {
        "name": "slow-first-token",
        "metric": "ttft_ms",
        "threshold": 800.0,
        "allowed_ratio": 0.05,
        "window_s": 60.0,
        "alpha": 0.001,
        "min_requests": 20,
        "action": "automatic",
    }
    return Trigger(**(whole | changes))


def policy(**changes) -> ReleasePolicy:
    whole = {
        "quality": {"int8": QualityGate(max_perplexity_ratio=1.05, max_mean_kl=0.05)},
        "gates": (
            MetricGate(metric="ttft_ms", statistic="p95", max_ratio=1.2),
            MetricGate(metric="tps_system", statistic="mean", min_value=40.0),
        ),
        "load": LoadProfile(requests=40, rate_rps=2.0, output_tokens=24, warmup_requests=2, timeout_s=60.0),
        "promotion": Promotion(mode="manual", approval_deadline_s=86_400.0),
        "canary": Canary(steps=(0.05, 0.25), min_requests=200, beta=0.02, deadline_s=3600.0, on_deadline="ask"),
        "triggers": (trigger(), trigger(name="errors", metric="error_ratio", threshold=0.02)),
    }
    return ReleasePolicy(**(whole | changes))


def base() -> f.BaseModelRef:
    return f.BaseModelRef(
        name="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="7e27bd9f95328f0f3b08261d1252705110c806f8",
        uri="s3://slipway/bases/smollm2-135m-instruct/7e27bd9f.json",
        digest=digest("SmolLM2-135M-Instruct"),
    )


def weights() -> f.Weights:
    return f.Weights(kind="lora", ref=ref("run-2231", f"checkpoints/{MODEL}/manifests/folder", 812))


def training() -> f.Training:
    return f.Training(
        run_id="support-2026-11-24-2231",
        data_hash=digest("tickets-2026-11"),
        hyperparameters={
            "learning_rate": 0.0002,
            "lora_r": 8,
            "lora_alpha": 16,
            "target_modules": ["q_proj", "v_proj"],
            "steps": 20,
            "packing": False,
            "seed": 17,
        },
        framework="peft 0.21.2, transformers 5.17.0",
        finished_at=START,
    )


def evals() -> tuple[f.EvalResult, ...]:
    return (
        f.EvalResult(name="held-out tickets", metric="loss", value=1.914, higher_is_better=False),
        f.EvalResult(name="routing", metric="accuracy", value=0.872, higher_is_better=True),
    )


def quality() -> f.Quality:
    return f.Quality(
        perplexity_ratio=1.014,
        mean_kl=0.0142,
        p99_kl=0.211,
        top1_agreement_ratio=0.941,
        tokens=6128,
        perplexity=22.815,
        reference_perplexity=22.5,
    )


def served_quality() -> f.ServedQuality:
    return f.ServedQuality(
        method="prompt_logprobs",
        tokens=6128,
        perplexity=22.86,
        reference_perplexity=22.5,
        perplexity_ratio=1.016,
        recorded_ratio=1.014,
        verdict="pass",
        reason="The served perplexity is 1.0160 times the merged model's on 6128 tokens; the record says 1.0140.",
    )


def statistics(p50: float, *, count: int = 40) -> f.Statistics:
    return f.Statistics(count=count, mean=p50 * 1.1, p50=p50, p95=p50 * 1.9, p99=p50 * 2.4)


def side(version: int) -> SideSummary:
    return SideSummary(
        target=target(version),
        requests=40,
        errors=1,
        ttft_ms=statistics(122.5),
        itl_ms=statistics(16.25),
        e2e_ms=statistics(512.0),
        tps_request=statistics(44.5),
        tps_system=61.75,
        output_tokens=936,
        goodput_rps=1.875,
        natural=NaturalAnswers(asked=16, ended=15, mean_tokens=61.5, most_tokens=256),
    )


def registered() -> f.RegisteredVariant:
    return f.RegisteredVariant(
        variant="int8",
        manifest=ref("v7.int8", "manifests/variant"),
        weights_bytes=165_000_000,
        size_ratio=0.61,
        quality=quality(),
    )


def comparison() -> f.Comparison:
    compared = f.ComparedVariant(
        variant="int8",
        verdict="pass",
        reason="Best by quality, decided by perplexity_ratio.",
        on_pareto_front=True,
        size_bytes=165_000_000,
        size_ratio=0.61,
        perplexity_ratio=1.014,
        served_perplexity_ratio=1.016,
        own_perplexity_ratio=1.02,
        mean_kl=0.0142,
        p99_kl=0.21,
        top1_agreement_ratio=0.97,
        ttft_p50_ms=122.5,
        ttft_p95_ms=232.75,
        tps_system=61.75,
    )
    return f.Comparison(winner="int8", variants=(compared,))


def progress(**changes) -> ReleaseProgress:
    about = {
        "model": MODEL,
        "release_id": RELEASE,
        "version": 7,
        "run_id": "support-2026-11-24-2231",
        "opened_at": START,
        "state": "quantising",
        "steps": (
            StepProgress(
                name="merged", title="merged", state="done", at=after(11.5),
                detail="99.8% of likeliest tokens as with base + LoRA",
            ),
            StepProgress(
                name="quantised", title="quantising", state="running", detail="1 of 2; int8: perplexity x1.014",
                awaited=("gptq-int4",),
            ),
        ),
        "variants": ("int8", "gptq-int4"),
        "publishers": (PUBLISHER,),
        "approvers": (),
        "deadline_at": after(3600),
        "paused": "",
        "target": None,
        "comparison": comparison(),
        "manual": True,
        "outcome": None,
        "code": None,
        "reason": "",
        "finished_at": None,
    }  # fmt: skip
    return ReleaseProgress.model_validate(about | changes)


def staging_request(**changes) -> f.StageRequested:
    whole = {
        "release_id": RELEASE,
        "candidate": deployable(7),
        "baseline": deployable(6),
        "purpose": "benchmark",
        "load": policy().load,
        "gates": policy().gates,
        "evaluation": ref("evaluation-tickets", "sets", 90_112),
        "quality": quality(),
        "quality_gate": policy().quality["int8"],
        "attempt": 1,
    }
    return f.StageRequested(**(whole | changes))


CALLER = "0f3a5c7e9b1d"


def inference(**changes) -> f.Inference:
    whole = {
        "request_id": "req-01JD9W3E7Q",
        "target": target(7),
        "endpoint": "chat.completions",
        "environment": "production",
        "canary": True,
        "drill": "drill-3",
        "scheduled_at": after(2000),
        "sent_at": after(2000.004),
        "ttft_ms": 131.5,
        "itl_ms": InterTokenLatency(mean=17.0, p95=24.5, max=41.0),
        "e2e_ms": 540.25,
        "input_tokens": 61,
        "output_tokens": 24,
        "finish_reason": "stop",
        "error": "engine_dead",
        "queue_ms": 12.5,
        "logprob_mean": -0.42,
        "nan_logits": False,
        "features": Features(
            prompt_chars=212,
            output_chars=118,
            non_letter_ratio=0.19,
            repetition_ratio=0.02,
            refusal=False,
            empty=False,
            language_ratio=0.97,
            valid_json=True,
        ),
    }
    return f.Inference(**(whole | changes))


def alert_values(message: str) -> dict:
    return {
        "alert_id": "support-bot.v7.int8/slow-first-token",
        "kind": "latency",
        "severity": "critical",
        "target": target(7),
        "trigger": "slow-first-token",
        "value": 0.31,
        "limit": 0.05,
        "window": window(),
        "requests": 64,
        "evidence": ref("evidence-88", "reports", 20_480),
        "runbook": "docs/runbooks/latency.md",
        "message": message,
        "e_value": 2100.0,
        "first_bad_at": after(2001),
        "raised_at": after(2011.5),
        "drill": "drill-3",
        "release_id": RELEASE,
        "answers_nothing": True,
    }


def window() -> Window:
    return Window(**{"from": after(1980), "to": after(2040)})


def rollback_values() -> dict:
    timeline = f.RollbackTimeline(
        first_bad_at=after(2001),
        detected_at=after(2011.5),
        decided_at=after(2011.6),
        switched_at=after(2011.9),
        verified_at=after(2031.0),
    )
    return {
        "rollback_id": "rb-support-bot-13",
        "cause_id": "c-alert-88",
        "failed": target(7),
        "to": target(6),
        "mode": "automatic",
        "timeline": timeline,
    }


def admission_values() -> dict:
    return {
        "base": base(),
        "weights": weights(),
        "training": training(),
        "evals": evals(),
        "variants": ("bf16", "int8"),
        "calibration": ref("calibration-tickets", "sets", 65_536),
        "policy": policy(),
        "attempt": 2,
        "evaluation": ref("evaluation-tickets", "sets", 90_112),
        "model": MODEL,
    }
