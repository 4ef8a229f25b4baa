"""Supported architectures of merger and quantiser."""

from collections.abc import Mapping
from typing import Any

from contracts.precisions import PRECISIONS
from contracts.vocabulary import Variant
from decisions.checkpoints.rejection import Rejection

QUANTISED_ARCHITECTURES = frozenset(
    {
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GraniteForCausalLM",
        "LlamaForCausalLM",
        "Ministral3ForCausalLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3_5ForCausalLM",
        "SmolLM3ForCausalLM",
    }
)
"""Decoders with linear layers and norms that scales fold into; a test quantises each to `int8`."""
_CONVERTED = """
    AXK1 AXK2 Afmoe Cohere2Moe DeepseekV2 DeepseekV3 DeepseekV32 DeepseekV4 Dots1 Emu3 Ernie4_5_Moe ExaoneMoe
    FlexOlmo Fuyu Glm4Moe Glm4MoeLite GlmMoeDsa GraniteMoe GraniteMoeHybrid GraniteMoeShared HYV3 HYV4
    HrmText HunYuanMoEV1 Jamba KimiLinear Laguna Lfm2Moe LongcatFlash Mellum MiMoV2Flash MiniMax MiniMaxM2
    Mixtral Mllama NemotronH OlmoHybrid Olmoe Phimoe Qwen2Moe Qwen3Moe Qwen3Next Qwen3_5Moe Qwen4Exp
    SolarOpen
"""
CONVERTED_ARCHITECTURES = frozenset(f"{name}ForCausalLM" for name in _CONVERTED.split())
"""Architectures that transformers converts on loading (fused experts, renamed weights), so that files and model have
different tensors. A test compares the list with the locked transformers."""
_TEXT_MODELS = ("ForCausalLM", "LMHeadModel")


def assess_architecture(architecture: str) -> Rejection | None:
    """Reject models that cannot be merged by tensor: mixtures of experts, image and audio models."""
    details = {"architecture": architecture}
    if architecture in CONVERTED_ARCHITECTURES:
        reason = (
            f"{architecture} keeps its weights in other tensors than it computes with, as mixtures of experts do; such "
            "a model cannot be merged. Use a dense model."
        )
        return Rejection("unsupported_architecture", reason, details)
    if not architecture.endswith(_TEXT_MODELS):
        reason = (
            f"{architecture} is not a text model. Use a text model of the family, or save this one's language_model "
            "and lm_head as such a model (of Gemma 3: Gemma3ForCausalLM), import that, and train on it."
        )
        return Rejection("unsupported_architecture", reason, details)
    return None


def assess_unquantised(owner: str, config: Mapping[str, Any]) -> Rejection | None:
    """Reject a model with a `quantization_config`."""
    if not config.get("quantization_config"):
        return None
    return Rejection("quantised_base", f"The {owner}'s config.json has a quantization_config.")


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """Return the architecture in a `config.json`; None without one."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def assess_variant(variant: Variant, architecture: str) -> Rejection | None:
    """Reject a precision that the architecture does not support."""
    if PRECISIONS[variant].scheme is None or architecture in QUANTISED_ARCHITECTURES:
        return None
    supported = ", ".join(sorted(QUANTISED_ARCHITECTURES))
    reason = f"{variant} does not support {architecture}, only {supported}. Request bf16."
    return Rejection("unsupported_architecture", reason, {"architecture": architecture, "variant": variant})
