"""How a variant is made: engine, method, calibration and group size, or why it cannot be made."""

from collections.abc import Mapping
from typing import Literal

from contracts.codes import Code
from contracts.facts import Processor, QuantiseSettings
from contracts.vocabulary import Contract, Digest, Variant, digest_of_json

from .shape import GROUP_SIZES, Dtype, ModelShape, choose_group_size

Engine = Literal["pass-through", "cast", "llmcompressor", "autoawq"]
AwqEngine = Literal["autoawq", "llmcompressor"]
Method = Literal["none", "round-to-nearest", "smoothquant-gptq", "gptq", "awq"]

SUPPORTED_ARCHITECTURES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GraniteForCausalLM"}
)
"""Decoders of plain linear layers whose norms scales can be folded into; each is exercised by a test."""
AUTOAWQ_ARCHITECTURES = SUPPORTED_ARCHITECTURES - {"GraniteForCausalLM"}
OUTPUT_MULTIPLE = 32
"""The 4-bit kernels of the serving engine and AutoAWQ's packing take output channels in blocks of this many."""
OUTPUT_FORMAT = 4
"""Raise it when the same plan yields other files, or another manifest, than before."""


class QuantiserDefaults(Contract):
    """What the service decides where a request says nothing."""

    dtype: Dtype = "bfloat16"
    awq_engine: AwqEngine = "autoawq"
    smoothing_strength: float = 0.8
    min_calibration_tokens: int = 1024
    held_out_windows: int = 8
    held_out_tokens: int = 512


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


def plan_quantisation(
    variant: Variant, shape: ModelShape, settings: QuantiseSettings, defaults: QuantiserDefaults
) -> QuantisationPlan | Refusal:
    """Plan how a variant is made.

    No calibration samples means round-to-nearest for INT8. The 16-bit variant is the merged files themselves where
    they already have the dtype that is served.
    """
    if shape.quantised:
        return Refusal(code="quantised_base", reason="The merged model is quantised already; merge in 16 bit.")
    if variant == "bf16":
        engine: Engine = "pass-through" if shape.dtype == defaults.dtype else "cast"
        return _plan(variant, shape, defaults, engine=engine, method="none")
    if shape.architecture not in SUPPORTED_ARCHITECTURES:
        known = ", ".join(sorted(SUPPORTED_ARCHITECTURES))
        reason = f"{variant} is not made for {shape.architecture}; it is for {known}. Ask for bf16."
        return Refusal(code="unsupported_architecture", reason=reason)
    calibration = _calibration(settings, defaults)
    if variant == "int8":
        return _plan_int8(shape, calibration, defaults)
    return _plan_int4(variant, shape, calibration, defaults)


def _calibration(settings: QuantiseSettings, defaults: QuantiserDefaults) -> CalibrationPlan | None:
    samples, tokens = settings.calibration_samples, settings.calibration_tokens
    if samples == 0:
        return None
    least = min(defaults.min_calibration_tokens, samples * tokens)
    return CalibrationPlan(samples=samples, tokens=tokens, seed=settings.seed, min_tokens=least)


def _plan_int8(shape: ModelShape, calibration: CalibrationPlan | None, defaults: QuantiserDefaults) -> QuantisationPlan:
    if calibration is None:
        return _plan("int8", shape, defaults, engine="llmcompressor", method="round-to-nearest", scheme="W8A8")
    return _plan(
        "int8",
        shape,
        defaults,
        engine="llmcompressor",
        method="smoothquant-gptq",
        scheme="W8A8",
        smoothing_strength=defaults.smoothing_strength,
        calibration=calibration,
    )


def _plan_int4(
    variant: Variant, shape: ModelShape, calibration: CalibrationPlan | None, defaults: QuantiserDefaults
) -> QuantisationPlan | Refusal:
    group_size = choose_group_size(shape.linear_dims)
    if group_size is None:
        dims = ", ".join(str(dim) for dim in shape.linear_dims)
        reason = f"None of {GROUP_SIZES} divides all of the layer widths {dims}; ask for int8 or bf16."
        return Refusal(code="group_size_impossible", reason=reason)
    narrow = [str(dim) for dim in shape.output_dims if dim % OUTPUT_MULTIPLE]
    if narrow:
        reason = f"4-bit kernels need widths that are multiples of {OUTPUT_MULTIPLE}, and {', '.join(narrow)} is none."
        return Refusal(code="group_size_impossible", reason=reason)
    if calibration is None:
        reason = f"{variant} cannot be made without calibration samples; ask for some, or for int8."
        return Refusal(code="calibration_too_small", reason=reason)
    if variant == "gptq-int4":
        return _plan(
            variant,
            shape,
            defaults,
            engine="llmcompressor",
            method="gptq",
            scheme="W4A16",
            group_size=group_size,
            calibration=calibration,
        )
    autoawq = defaults.awq_engine == "autoawq" and shape.architecture in AUTOAWQ_ARCHITECTURES
    return _plan(
        variant,
        shape,
        defaults,
        engine="autoawq" if autoawq else "llmcompressor",
        method="awq",
        scheme="W4A16_ASYM",
        group_size=group_size,
        calibration=calibration,
    )


def _plan(
    variant: Variant,
    shape: ModelShape,
    defaults: QuantiserDefaults,
    *,
    engine: Engine,
    method: Method,
    scheme: str | None = None,
    group_size: int | None = None,
    smoothing_strength: float | None = None,
    calibration: CalibrationPlan | None = None,
) -> QuantisationPlan:
    return QuantisationPlan(
        variant=variant,
        engine=engine,
        method=method,
        scheme=scheme,
        group_size=group_size,
        smoothing_strength=smoothing_strength,
        ignored_modules=("lm_head",) if scheme else (),
        dtype=defaults.dtype,
        layers=shape.layers,
        calibration=calibration,
        held_out=HeldOutPlan(windows=defaults.held_out_windows, tokens=defaults.held_out_tokens),
    )


def plan_measurement_key(
    made: Digest,
    *,
    measurement_number: int,
    release_id: str,
    held_out: Digest,
    libraries: Mapping[str, str],
    processor: Processor,
    evaluation: Digest | None = None,
) -> str:
    """Return the output key of a measurement of files that were made before.

    It counts the release, because a new attempt after a suspect record must not find the old measurement again.

    Args:
        made: Digest of the manifest that names the files.
        measurement_number: Number of the measurement, 2 for the second.
        release_id: The release that asks for it.
        held_out: Digest of the text that quality is measured on.
        libraries: Version by name of every library that can change the result.
        processor: What computes.
        evaluation: Digest of the checkpoint's own evaluation set.
    """
    return digest_of_json(
        {
            "stage": "measure",
            "format": OUTPUT_FORMAT,
            "made": made,
            "measurement": measurement_number,
            "release": release_id,
            "held_out": held_out,
            "libraries": dict(libraries),
            "processor": processor.model_dump(mode="json"),
            "evaluation": evaluation,
        }
    )


def plan_output_key(
    plan: QuantisationPlan,
    *,
    merged: Digest,
    calibration: Digest | None,
    held_out: Digest,
    libraries: Mapping[str, str],
    processor: Processor,
    evaluation: Digest | None = None,
) -> str:
    """Return the output key: the same key is the same variant, whoever makes it and however often.

    Args:
        plan: The parameters.
        merged: Digest of the merged model's manifest.
        calibration: Digest of the calibration set, given or packaged; None when nothing calibrates.
        held_out: Digest of the text that quality is measured on.
        libraries: Version by name of every library that can change the result.
        processor: What computes. Weights that are calibrated and figures that are measured depend on it.
        evaluation: Digest of the checkpoint's own evaluation set, which is kept out of calibration and measured too.
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
            "processor": processor.model_dump(mode="json"),
            "evaluation": evaluation,
        }
    )
