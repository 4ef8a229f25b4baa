"""Facts, events and routes: complete and plausible by default, changed by keyword where the caller needs it."""

from datetime import UTC, datetime, timedelta

from contracts import facts as f
from contracts.envelope import Event, source_of
from contracts.facts.staging import RatioInterval, SideSummary
from contracts.facts.watch import Features, InterTokenLatency, Window
from contracts.gateway_rollbacks import SignedGatewayRollback
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
    """Return the `source` of an event as an identity sends it that may: the first service that emits its fact."""
    outsider = PUBLISHER if kind is f.CheckpointReady else OPERATOR
    return source_of((*emitters(kind), outsider)[0])


def after(seconds: float) -> datetime:
    """Return the time so many seconds after START."""
    return START + timedelta(seconds=seconds)


def digest(word: str) -> str:
    return digest_of(word.encode())


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
        "cooldown_s": 300.0,
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
        "canary": Canary(steps=(0.05, 0.25), min_requests=200, deadline_s=3600.0, on_deadline="abort"),
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
    )


def registered() -> f.RegisteredVariant:
    return f.RegisteredVariant(
        variant="int8",
        manifest=ref("v7.int8", "manifests/variant"),
        weights_bytes=165_000_000,
        size_ratio=0.61,
        quality=quality(),
    )


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
            script="latin",
            non_letter_ratio=0.19,
            repetition_ratio=0.02,
            refusal=False,
            empty=False,
        ),
    }
    return f.Inference(**(whole | changes))


def _alert(message: str) -> dict:
    return {
        "alert_id": "support-bot.v7.int8/slow-first-token",
        "kind": "latency",
        "severity": "critical",
        "target": target(7),
        "trigger": "slow-first-token",
        "value": 0.31,
        "limit": 0.05,
        "window": _window(),
        "requests": 64,
        "evidence": ref("evidence-88", "reports", 20_480),
        "runbook": "docs/runbooks/latency.md",
        "message": message,
        "e_value": 2100.0,
        "first_bad_at": after(2001),
        "raised_at": after(2011.5),
        "drill": "drill-3",
        "release_id": RELEASE,
    }


def _window() -> Window:
    return Window(**{"from": after(1980), "to": after(2040)})


def _rollback() -> dict:
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


def _admission() -> dict:
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


SIGNED_ROLLBACK = SignedGatewayRollback(
    payload=(
        '{"administrator":"maria","epoch":12,"expires_at":"2026-11-24T09:40:00Z","failed":{"model":'
        '"support-bot","variant":"int8","version":7},"issued_at":"2026-11-24T09:30:00Z","kind":"sli'
        'pway.gateway-rollback.v1","model":"support-bot","order_id":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f'
        '0f","plan_only":false,"reason":"Rude answers."}'
    ),
    public_key="UDSACZC2RY5MCU35J6RCQ4XTASAYGHPCY5JMSB5MDC5Z4I3F2WQELZPJ",
    signature="npKikmHSm8BTgzGSVzeifo6nsQ9ZhwXybrLkDkWxMyDSfXYcXcnDoyW0JQ5IM2dK4QY+LgwpDyEmYS5kwo+aDw==",
)
"""An order of maria's, whose key is lost."""

DEFAULTS: dict[type[f.Fact], dict] = {
    f.CheckpointReady: _admission(),
    f.ReleaseOpened: _admission()
    | {"release_id": RELEASE, "version": 7, "release_key": digest("release-key"), "source_event_id": "run-2231"},
    f.CheckpointRejected: {
        "code": "non_finite_weights",
        "reason": "lora_A of layer 11 holds NaN.",
        "details": {"tensor": "model.layers.11.self_attn.q_proj.lora_A.weight", "values": 3},
    },
    f.CheckpointMerged: {
        "manifest": ref("merged-7"),
        "tokenizer_digest": digest("tokenizer"),
        "duration_s": 9.75,
        "rendered_prompt_digest": digest("prompt"),
        "peak_rss_bytes": 1_411_000_000,
        "method": f.MergeMethod(kind="lora", dtype="bfloat16", library_versions={"peft": "0.21.2", "torch": "2.13.0"}),
        "parity": f.Parity(
            prompts=8, max_abs_logit_difference=0.0625, mean_kl=0.00021, top1_agreement_ratio=0.998, effect_kl=0.31
        ),
    },
    f.VariantRequested: {
        "release_id": RELEASE,
        "version": 7,
        "variant": "int8",
        "merged": ref("merged-7"),
        "calibration": ref("calibration-tickets", "sets", 65_536),
        "gate": policy().quality["int8"],
        "settings": f.QuantiseSettings(calibration_samples=16, calibration_tokens=384, seed=17),
        "evaluation": ref("evaluation-tickets", "sets", 32_768),
    },
    f.VariantQuantised: {
        "variant": "int8",
        "manifest": ref("v7.int8", "manifests/variant"),
        "weights_bytes": 165_000_000,
        "engine": f.EngineVersion(name="llmcompressor", version="0.14.0.1"),
        "size_ratio": 0.61,
        "quality": quality(),
        "settings": {"scheme": "W8A8", "smoothing_strength": 0.8},
        "calibration_digest": digest("calibration-tickets"),
        "duration_s": 42.0,
        "peak_rss_bytes": 1_730_000_000,
        "evaluation_quality": quality(),
    },
    f.VariantFailed: {
        "variant": "gptq-int4",
        "step": "quantise",
        "code": "group_size_impossible",
        "reason": "576 is not divisible by 128.",
        "details": {"dimension": 576},
    },
    f.WorkProgressed: {
        "step": "quantise",
        "done": 12.0,
        "total": 30.0,
        "unit": "layers",
        "variant": "int8",
        "detail": "calibrating",
    },
    f.VersionRegistered: {
        "version": 7,
        "manifest": ref("version-7", f"versions/{MODEL}/7"),
        "base": base(),
        "training": training(),
        "evals": evals(),
        "variants": (registered(),),
    },
    f.StageRequested: dict(staging_request()),
    f.StageReleased: {"release_id": RELEASE, "candidate": target(7), "reason": "benchmarked"},
    f.VariantStaged: {
        "lease_id": "lease-41",
        "candidate": served(7),
        "baseline": served(6),
        "request": staging_request(),
        "load_s": 31.5,
        "memory_bytes": 6_200_000_000,
        "first_token": "Hello",
    },
    f.VariantBenchmarked: {
        "target": target(7),
        "baseline": target(6),
        "report": ref("benchmark-7", "manifests/benchmark", 51_200),
        "attempt": 1,
        "hardware": "2 cores, AVX512, 24 GB",
        "candidate_summary": side(7),
        "baseline_summary": side(6),
        "ratios": (RatioInterval(metric="ttft_ms.p95", value=1.04, low=0.93, high=1.17),),
        "quality": quality(),
        "served_quality": served_quality(),
        "gates": (f.GateResult(name="ttft_ms.p95", verdict="pass", value=1.04, limit=1.2, reason="1.04 is below 1.2"),),
        "verdict": "pass",
    },
    f.RehearsalRequested: {
        "release_id": RELEASE,
        "candidate": deployable(7),
        "fallback": deployable(6),
        "triggers": policy().triggers,
    },
    f.RehearsalCompleted: {
        "release_id": RELEASE,
        "variant": "int8",
        "verdict": "pass",
        "reason": "Detected, switched and verified.",
        "certificates": (
            f.RehearsalCertificate(
                trigger="slow-first-token",
                fault="delay_ms=900",
                injected_at=after(900),
                alert_event_id="alert-r7",
                route_event_id="route-r7",
                detect_s=10.5,
                switch_s=0.25,
                verify_s=19.0,
                candidate_digest=digest("v7.int8"),
                fallback_digest=digest("v6.int8"),
                policy_digest=digest("policy"),
                expires_at=after(87_300),
            ),
        ),
    },
    f.ApprovalRequested: {
        "release_id": RELEASE,
        "target": target(7),
        "manifest_digest": digest("version-7"),
        "deadline_at": after(87_300),
    },
    f.ApprovalGranted: {
        "release_id": RELEASE,
        "manifest_digest": digest("version-7"),
        "reason": "Gates pass.",
        "expires_at": after(900),
        "epoch": 11,
    },
    f.TrafficRequested: {
        "release_id": RELEASE,
        "target": deployable(7),
        "weight_ratio": 0.05,
        "epoch": 11,
        "fallback": deployable(0),
        "reason": "canary step 1 of 2",
    },
    f.DeploymentChanged: {"route": route(), "cause": "canary", "at": after(1500)},
    f.PromotionRefused: {
        "target": target(7),
        "code": "stale_epoch",
        "reason": "Made for epoch 11, the route is at 12.",
    },
    f.CanaryAssessed: {
        "target": target(8),
        "weight_ratio": 0.05,
        "requests": 212,
        "e_values": {"slow-first-token": 0.37, "errors": 1.5},
        "counts": {
            "slow-first-token": f.TriggerCounts(requests=212, bad=4, pairs=180, bad_in_pairs=3, active_bad_in_pairs=5),
            "errors": f.TriggerCounts(requests=212, bad=1, pairs=180, bad_in_pairs=1),
        },
        "requests_needed": 0,
        "verdict": "pass",
        "reason": "212 of 200 requests, no trigger near its limit.",
    },
    f.ReleaseFinished: {
        "release_id": RELEASE,
        "model": MODEL,
        "version": 7,
        "outcome": "rejected",
        "code": "gate_failed",
        "reason": "ttft_ms.p95 is 1.31 times the baseline, limit 1.2.",
        "target": target(7),
        "timeline": (
            f.TimelineStep(step="release.opened", at=START, duration_s=0.0),
            f.TimelineStep(step="checkpoint.merged", at=after(11.5), duration_s=11.5),
        ),
    },
    f.ReleaseCancelled: {
        "release_id": RELEASE,
        "reason": "Wrong data set.",
        "expires_at": after(900),
    },
    f.ReleaseHeld: {
        "release_id": RELEASE,
        "paused": True,
        "reason": "Wait for the incident review.",
        "expires_at": after(900),
    },
    f.CanaryAdvanced: {
        "release_id": RELEASE,
        "weight_ratio": 0.05,
        "reason": "Too little traffic at night.",
        "expires_at": after(900),
        "epoch": 12,
    },
    f.ApprovalDenied: {
        "release_id": RELEASE,
        "reason": "The refusals of the evaluation set are rude.",
        "expires_at": after(900),
    },
    f.DrillOrdered: {
        "reason": "Quarterly drill.",
        "target": target(7),
        "share_ratio": 0.5,
        "fault": f.DrillFault(delay_ms=900, error_ratio=0.1, garble=True),
        "expires_at": after(3600),
        "environment": "staging",
        "epoch": 12,
    },
    f.RollbackOrdered: {
        "reason": "Rude answers.",
        "failed": target(7),
        "to_version": 6,
        "expires_at": after(900),
        "epoch": 12,
    },
    f.RollbackReported: {"order": SIGNED_ROLLBACK, "performed_at": after(2)},
    f.QuarantineLifted: {
        "reason": "It was the network.",
        "target": target(7),
        "kind": "target",
        "expires_at": after(900),
        "epoch": 12,
    },
    f.ErasureOrdered: {
        "reason": "A customer asked for it.",
        "version": 7,
        "kind": "held-out",
        "expires_at": after(900),
    },
    f.SilenceOrdered: {
        "reason": "The network is maintained.",
        "trigger": "ttft-p95",
        "until": after(7200),
        "expires_at": after(900),
    },
    f.AcknowledgementOrdered: {
        "alert_id": "support-bot.v7.int8/ttft-p95/1",
        "reason": "I look at it.",
        "expires_at": after(900),
    },
    f.AuditRecorded: {
        "action": "policy.set",
        "about": MODEL,
        "digest": "sha256:" + "3c" * 32,
        "occurred_at": after(0),
        "details": {"revision": 12},
    },
    f.OrderAccepted: {
        "order_id": "quarantine.lifted.v1-1",
        "order_type": f.QuarantineLifted.TYPE,
        "release_id": RELEASE,
        "details": {"epoch": 13},
    },
    f.OrderRefused: {
        "order_id": "quarantine.lifted.v1-1",
        "order_type": f.QuarantineLifted.TYPE,
        "actor": "jonas",
        "release_id": RELEASE,
        "code": "stale_epoch",
        "reason": "The order was given for epoch 11 of the route of support-bot, which is at epoch 12 now.",
    },
    f.DeadlinePassed: {"release_id": RELEASE, "step": "benchmark", "waiting_for": "variant.benchmarked"},
    f.WorkAbandoned: {
        "service": "quantiser",
        "cause_type": f.VariantRequested.TYPE,
        "cause_id": "3f0f3f0b-55a1-5c84-a1d8-6b0b1f9e2a11",
        "dead_letter_sequence": 4,
        "code": "internal_error",
        "reason": "ZeroDivisionError: division by zero.",
    },
    f.WindowSummarised: {
        "target": target(7),
        "window": _window(),
        "requests": 64,
        "errors": {"engine_dead": 1},
        "ttft_histogram": "HISTFAAAABx4nJNpmSzMwMDAxAABzFCaEUoz2X+AsQA/awKA",
        "e2e_histogram": "HISTFAAAABx4nJNpmSzMwMDAygABzFCaEUoz2X+AsQA/7wKE",
        "itl_histogram": "HISTFAAAABx4nJNpmSzMwMDAygABzFCaEUoz2X+AsQA/7wKE",
        "queue_histogram": "HISTFAAAABx4nJNpmSzMwMDAygABzFCaEUoz2X+AsQA/7wKE",
        "features": {"output_chars": {"mean": 118.5, "count": 64}},
        "e_values": {"slow-first-token": 12.5},
        "observed": {"slow-first-token": (64, 20)},
        "drills": {"drill-3": 18},
    },
    f.AlertRaised: _alert("31 % of answers began after 800 ms; 5 % are allowed."),
    f.AlertUpdated: _alert("34 % of answers began after 800 ms; 5 % are allowed."),
    f.AlertResolved: _alert("2 % of answers began after 800 ms; 5 % are allowed."),
    f.RollbackStarted: _rollback(),
    f.RollbackCompleted: _rollback() | {"verdict": "pass", "reason": "64 requests within the limit after the switch."},
    f.RollbackFailed: _rollback() | {"code": "no_previous_target", "reason": "support-bot.v6.int8 is not loaded."},
    f.InferenceBatch: {"gateway": "gateway-1", "records": (inference(),)},
}


def fact(kind: type[f.Fact], **changes) -> f.Fact:
    """Return a fact with every field set, some by keyword."""
    known = {name: value for name, value in DEFAULTS[kind].items() if name in kind.model_fields}
    return kind(**(known | changes))


def event(data: f.Fact | type[f.Fact], **changes) -> Event:
    """Return an event with every attribute set that carries a fact, or the default fact of a kind."""
    content = data if isinstance(data, f.Fact) else fact(data)
    envelope = {
        "id": f"{content.TYPE.removeprefix('slipway.')}-1",
        "source": source_for(type(content)),
        "type": content.TYPE,
        "subject": MODEL,
        "time": START,
        "correlationid": RELEASE,
        "causationid": "run-2231",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "environment": "production",
    }
    return Event[type(content)](**(envelope | changes), data=content)
