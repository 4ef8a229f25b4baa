"""Plans how a variant is made (engine, method, calibration, group size), or rejects it."""

from collections.abc import Mapping
from typing import Literal

from contracts.codes import Code
from contracts.facts import QuantiseSettings
from contracts.precisions import PRECISIONS, Method
from contracts.vocabulary import Contract, Digest, Variant, digest_of_json
from decisions.checkpoints.architectures import assess_variant
from services.quantiser.domain.shape import GROUP_SIZES, Dtype, ModelShape, choose_group_size

Engine = Literal["pass-through", "cast", "llmcompressor", "autoawq"]
AwqEngine = Literal["autoawq", "llmcompressor"]

AUTOAWQ_ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
NARROW_LAYERS = {"Qwen3_5ForCausalLM": (r"re:.*\.linear_attn\.in_proj_[ab]$",)}
"""Layers with few outputs (one per head), which no 4-bit kernel supports and which cost little in 16 bit."""
OUTPUT_MULTIPLE = 32
"""Required multiple of output channels, for the serving engine's 4-bit kernels and AutoAWQ's packing."""
OUTPUT_FORMAT = 7
"""Increase it when the same plan gives other files or another manifest."""


class QuantiserDefaults(Contract):
    """The service's values for settings that requests omit."""

    dtype: Dtype = "bfloat16"
    awq_engine: AwqEngine = "autoawq"
    smoothing_strength: float = 0.8
    """SmoothQuant strength: how much of the activations' range moves into the weights."""
    min_calibration_tokens: int = 1024
    held_out_windows: int = 8
    held_out_tokens: int = 512


class CalibrationPlan(Contract):
    """Number and length of calibration windows, and the minimum of tokens."""

    samples: int
    tokens: int
    seed: int
    min_tokens: int


class HeldOutPlan(Contract):
    """Number and length of held-out windows."""

    windows: int
    tokens: int


class QuantisationPlan(Contract):
    """Everything that determines a variant, besides input files and library versions."""

    variant: Variant
    engine: Engine
    method: Method
    scheme: str | None = None
    group_size: int | None = None
    smoothing_strength: float | None = None
    ignored_modules: tuple[str, ...] = ()
    dtype: Dtype
    architecture: str
    layers: int
    calibration: CalibrationPlan | None = None
    held_out: HeldOutPlan


class Rejection(Contract):
    """Why a variant is not made; a retry would fail too."""

    code: Code
    reason: str


def plan_quantisation(
    variant: Variant, shape: ModelShape, settings: QuantiseSettings, defaults: QuantiserDefaults
) -> QuantisationPlan | Rejection:
    """Return a variant's plan, or its rejection.

    A 16-bit variant reuses the merged files if they have the serving dtype.
    """
    precision = PRECISIONS[variant]
    if shape.quantised:
        return Rejection(code="quantised_base", reason="The merged model is already quantised.")
    refused = assess_variant(variant, shape.architecture)
    if refused is not None:
        return Rejection(code=refused.code, reason=refused.reason)
    group_size = choose_group_size(shape.linear_dims) if precision.grouped else None
    impossible = _why_no_groups(group_size, shape) if precision.grouped else ""
    if impossible:
        return Rejection(code="group_size_impossible", reason=impossible)
    samples, tokens = settings.calibration_samples if precision.samples else 0, settings.calibration_tokens
    rounded = samples == 0 and precision.samples > 0
    if rounded and precision.grouped:
        reason = f"{variant} cannot be made with 0 calibration samples; request some, or request int8."
        return Rejection(code="calibration_too_small", reason=reason)
    method: Method = "round-to-nearest" if rounded else precision.method
    return QuantisationPlan(
        variant=variant,
        engine=_engine(method, shape, defaults),
        method=method,
        scheme=precision.scheme,
        group_size=group_size,
        smoothing_strength=defaults.smoothing_strength if method == "smoothquant-gptq" else None,
        ignored_modules=("lm_head", *NARROW_LAYERS.get(shape.architecture, ())) if precision.scheme else (),
        dtype=defaults.dtype,
        architecture=shape.architecture,
        layers=shape.layers,
        calibration=CalibrationPlan(
            samples=samples,
            tokens=tokens,
            seed=settings.seed,
            min_tokens=min(defaults.min_calibration_tokens, samples * tokens),
        )
        if samples
        else None,
        held_out=HeldOutPlan(windows=defaults.held_out_windows, tokens=defaults.held_out_tokens),
    )


def _why_no_groups(group_size: int | None, shape: ModelShape) -> str:
    """Return why weights cannot be quantised in groups; empty if they can."""
    if group_size is None:
        return f"No group size of {GROUP_SIZES} divides all layer widths {', '.join(map(str, shape.linear_dims))}."
    narrow = [str(dim) for dim in shape.output_dims if dim % OUTPUT_MULTIPLE]
    if not narrow:
        return ""
    return f"The layer widths {', '.join(narrow)} are not multiples of {OUTPUT_MULTIPLE}, as 4-bit kernels need."


def _engine(method: Method, shape: ModelShape, defaults: QuantiserDefaults) -> Engine:
    """Return the engine that carries out a method."""
    if method == "none":
        return "pass-through" if shape.dtype == defaults.dtype else "cast"
    autoawq = method == "awq" and defaults.awq_engine == "autoawq" and shape.architecture in AUTOAWQ_ARCHITECTURES
    return "autoawq" if autoawq else "llmcompressor"


def plan_settings_key(variant: Digest, merged: Digest) -> str:
    """Return the output key of a variant with other serving settings.

    Args:
        variant: Output key of the variant with the same files.
        merged: Digest of the merged model's manifest, which includes the settings.
    """
    return digest_of_json({"stage": "settings", "variant": variant, "merged": merged})


def plan_output_key(
    plan: QuantisationPlan,
    *,
    merged: Digest,
    calibration: Digest | None,
    held_out: Digest,
    libraries: Mapping[str, str],
    evaluation: Digest | None = None,
) -> str:
    """Return the output key; requests with the same key give the same variant.

    Args:
        plan: The plan.
        merged: Digest of the merged model's manifest.
        calibration: Digest of the calibration set, given or packaged; None without calibration.
        held_out: Digest of the held-out text.
        libraries: Version by name of each library that can change the result.
        evaluation: Digest of the checkpoint's evaluation set, which is measured and excluded from calibration.
    """
    return digest_of_json(
        {
            "stage": "quantise",
            "format": OUTPUT_FORMAT,
            "plan": plan.model_dump(mode="json"),
            "merged": merged,
            "calibration": calibration,
            "held_out": held_out,
            "libraries": dict(libraries),
            "evaluation": evaluation,
        }
    )
