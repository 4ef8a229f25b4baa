"""How a variant is made: engine, method, calibration and group size, or why it cannot be made."""

from collections.abc import Mapping
from typing import Any, Literal

from contracts.codes import Code
from contracts.facts import QuantiseSettings
from contracts.vocabulary import Contract, Digest, Variant, digest_of_json

Dtype = Literal["bfloat16", "float16", "float32"]
Engine = Literal["pass-through", "cast", "llmcompressor"]
Method = Literal["none", "round-to-nearest", "smoothquant-gptq"]

GROUP_SIZES = (128, 64, 32)
SUPPORTED_ARCHITECTURES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GraniteForCausalLM"}
)
"""Decoders of plain linear layers whose norms SmoothQuant can fold into; each is exercised by a test."""
MAKEABLE: frozenset[Variant] = frozenset({"bf16", "int8"})
OUTPUT_FORMAT = 2
"""Raise it when the same plan yields other files, or another manifest, than before."""


class QuantiserDefaults(Contract):
    """What the service decides where a request says nothing."""

    dtype: Dtype = "bfloat16"
    smoothing_strength: float = 0.8
    min_calibration_tokens: int = 1024
    held_out_windows: int = 8
    held_out_tokens: int = 512


class ModelShape(Contract):
    """What planning needs to know of a merged model."""

    architecture: str
    layers: int
    dtype: Dtype
    linear_dims: tuple[int, ...]
    quantised: bool = False


class CalibrationPlan(Contract):
    """How many windows of which length calibrate, and the least number of tokens that may."""

    samples: int
    tokens: int
    seed: int
    min_tokens: int


class HeldOutPlan(Contract):
    """The held-out windows that quality is measured on."""

    windows: int
    tokens: int


class QuantisationPlan(Contract):
    """Everything that decides what comes out, apart from the input files and the library versions."""

    variant: Variant
    engine: Engine
    method: Method
    scheme: str | None = None
    group_size: int | None = None
    smoothing_strength: float | None = None
    ignored_modules: tuple[str, ...] = ()
    dtype: Dtype
    layers: int
    calibration: CalibrationPlan | None = None
    held_out: HeldOutPlan


class Refusal(Contract):
    """Why a variant is not made; no retry can help."""

    code: Code
    reason: str


def shape_of(config: Mapping[str, Any], dtype: Dtype) -> ModelShape:
    """Read the shape of a model from its `config.json`.

    Args:
        config: The parsed file.
        dtype: The dtype that the weights are stored in, as the merger recorded it.
    """
    hidden = int(config.get("hidden_size") or 0)
    heads = int(config.get("num_attention_heads") or 1)
    head_dim = int(config.get("head_dim") or hidden // heads)
    dims = {hidden, int(config.get("intermediate_size") or 0), heads * head_dim} - {0}
    return ModelShape(
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        layers=int(config.get("num_hidden_layers") or 0),
        dtype=dtype,
        linear_dims=tuple(sorted(dims)),
        quantised=bool(config.get("quantization_config")),
    )


def choose_group_size(linear_dims: tuple[int, ...]) -> int | None:
    """Give the largest group size that divides the input of every quantised layer; None when none does."""
    return next((size for size in GROUP_SIZES if all(dim % size == 0 for dim in linear_dims)), None)


def plan_quantisation(
    variant: Variant, shape: ModelShape, settings: QuantiseSettings, defaults: QuantiserDefaults
) -> QuantisationPlan | Refusal:
    """Plan how a variant is made.

    No calibration samples means round-to-nearest. The 16-bit variant is the merged files themselves where they
    already have the dtype that is served.
    """
    if shape.quantised:
        return Refusal(code="quantised_base", reason="The merged model is quantised already; merge in 16 bit.")
    held_out = HeldOutPlan(windows=defaults.held_out_windows, tokens=defaults.held_out_tokens)
    if variant == "bf16":
        return QuantisationPlan(
            variant=variant,
            engine="pass-through" if shape.dtype == defaults.dtype else "cast",
            method="none",
            dtype=defaults.dtype,
            layers=shape.layers,
            held_out=held_out,
        )
    if shape.architecture not in SUPPORTED_ARCHITECTURES:
        known = ", ".join(sorted(SUPPORTED_ARCHITECTURES))
        reason = f"{variant} is not made for {shape.architecture}; it is for {known}. Ask for bf16."
        return Refusal(code="unsupported_architecture", reason=reason)
    group_size = None if variant == "int8" else choose_group_size(shape.linear_dims)
    if variant != "int8" and group_size is None:
        dims = ", ".join(str(dim) for dim in shape.linear_dims)
        reason = f"None of {GROUP_SIZES} divides all of the layer widths {dims}; ask for int8 or bf16."
        return Refusal(code="group_size_impossible", reason=reason)
    if variant not in MAKEABLE:
        reason = f"This quantiser makes {' and '.join(sorted(MAKEABLE))}; {variant} is not among them yet."
        return Refusal(code="engine_failed", reason=reason)
    return _plan_int8(shape, settings, defaults, held_out)


def _plan_int8(
    shape: ModelShape, settings: QuantiseSettings, defaults: QuantiserDefaults, held_out: HeldOutPlan
) -> QuantisationPlan:
    calibrated = settings.calibration_samples > 0
    calibration = CalibrationPlan(
        samples=settings.calibration_samples,
        tokens=settings.calibration_tokens,
        seed=settings.seed,
        min_tokens=min(defaults.min_calibration_tokens, settings.calibration_samples * settings.calibration_tokens),
    )
    return QuantisationPlan(
        variant="int8",
        engine="llmcompressor",
        method="smoothquant-gptq" if calibrated else "round-to-nearest",
        scheme="W8A8",
        smoothing_strength=defaults.smoothing_strength if calibrated else None,
        ignored_modules=("lm_head",),
        dtype=defaults.dtype,
        layers=shape.layers,
        calibration=calibration if calibrated else None,
        held_out=held_out,
    )


def plan_output_key(
    plan: QuantisationPlan,
    *,
    merged: Digest,
    calibration: Digest | None,
    held_out: Digest,
    libraries: Mapping[str, str],
) -> str:
    """Give the output key: the same key is the same variant, whoever makes it and however often.

    Args:
        plan: The parameters.
        merged: Digest of the merged model's manifest.
        calibration: Digest of the calibration set, given or packaged; None when nothing calibrates.
        held_out: Digest of the text that quality is measured on.
        libraries: Version by name of every library that can change the result.
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
        }
    )
