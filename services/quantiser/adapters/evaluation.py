"""Measures a variant's quality: next-token distributions against the merged model's on held-out text."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.quantization_config import CompressedTensorsConfig

from contracts.facts import Quality
from contracts.manifests import HeldOutWindow
from services.quantiser.adapters.wide_weights import WideWeights

CHANNEL_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]
"""Position of each of eight adjacent channels in a packed integer, in 4-bit steps from the low end."""
PACKED = (".qweight", ".qzeros", ".scales")


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Unpack 4-bit integers: [rows, columns] becomes [rows, 8 * columns]."""
    steps = (packed[:, :, None] >> torch.arange(0, 32, 4)) & 0xF
    return steps[:, :, CHANNEL_ORDER].flatten(1)


def dequantise(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return a packed layer's fp32 weight [outputs, inputs].

    Args:
        qweight: [inputs, outputs / 8], packed.
        qzeros: [groups, outputs / 8], packed.
        scales: [groups, outputs], in the serving dtype.
    """
    group_size = qweight.shape[0] // scales.shape[0]
    zeros = unpack(qzeros).repeat_interleave(group_size, dim=0)
    steps = scales.float().repeat_interleave(group_size, dim=0)
    return ((unpack(qweight) - zeros) * steps).t().contiguous()


def load_awq(folder: Path, dtype: str) -> Any:
    """Load an AutoAWQ model in fp32, with scales rounded to `dtype` like the serving engine."""
    stored: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as source:
            stored |= {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 - no mapping
    state = {name: tensor.float() for name, tensor in stored.items() if not name.endswith(PACKED)}
    for layer in (name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")):
        scales = stored[f"{layer}.scales"].to(getattr(torch, dtype))
        state[f"{layer}.weight"] = dequantise(stored[f"{layer}.qweight"], stored[f"{layer}.qzeros"], scales)
    described = json.loads((folder / "config.json").read_text())
    described.pop("quantization_config")
    config = AutoConfig.for_model(**described)
    model_class = getattr(transformers, config.architectures[0])
    return model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)


TOKEN_DIGITS = 6
"""Decimals of a token's stored negative log-likelihood in nats; more would lengthen the record without information."""


def device() -> str:
    """Return `cuda` if available, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class NotFiniteError(Exception):
    """A model's logits on held-out text are not finite."""


def load_reference(folder: Path) -> Any:
    """Load a 16-bit model in fp32 for evaluation."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device())


def load_narrow(folder: Path) -> Any:
    """Load a model with weights in their stored dtype; `log_probabilities` computes in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval().to(device())


def load_variant(folder: Path, engine: str, dtype: str) -> Any:
    """Load the model that an engine wrote, with the arithmetic of serving.

    Args:
        folder: The model's folder.
        engine: The plan's engine.
        dtype: The serving dtype.
    """
    if engine == "llmcompressor":
        return load_compressed(folder)
    if engine == "autoawq":
        return load_awq(folder, dtype).eval().to(device())
    return load_reference(folder)


def load_compressed(folder: Path) -> Any:
    """Load a compressed-tensors model with the arithmetic of serving.

    Weights are dequantised once; activations are quantised in each forward pass. Without this configuration, integers
    would silently be read as weights.
    """
    config = CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that `dequantize` overrides the stored value, as intended
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    return model.eval().to(device())


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is untyped
def measure_quality(
    reference: Any,
    candidate: Any,
    windows: list[list[int]],
    on_window: Callable[[int, int], None],
) -> tuple[Quality, tuple[HeldOutWindow, ...]]:
    """Compare two models; return quality figures, and both negative log-likelihoods of each window.

    KL is KL(reference || candidate), in nats; the perplexity ratio is candidate / reference.

    Args:
        reference: The merged model, or its `StoredScores`.
        candidate: The variant; the reference itself if its files are the merged model's.
        windows: Token IDs; every token after the first is predicted.
        on_window: Called with windows done and in total.

    Raises:
        NotFiniteError: An output is not finite.
    """
    divergences = []
    measured: list[HeldOutWindow] = []
    agreed = 0
    for index, window in enumerate(windows):
        ids = torch.tensor([window], device=device())
        expected = log_probabilities(reference, ids)
        actual = expected if candidate is reference else log_probabilities(candidate, ids)
        following = ids[0, 1:, None]
        measured.append(_measured_window(window, expected.gather(1, following), actual.gather(1, following)))
        agreed += int((expected.argmax(-1) == actual.argmax(-1)).sum())
        divergences.append((expected.exp() * (expected - actual)).sum(-1))
        on_window(index + 1, len(windows))
    kl = torch.cat(divergences).double()
    tokens = int(kl.numel())
    if not bool(torch.isfinite(kl).all()):
        raise NotFiniteError("The model's logits on held-out text are not finite.")
    reference_nll = math.fsum(window.reference_nll for window in measured) / tokens
    nll = math.fsum(window.nll for window in measured) / tokens
    quality = Quality(
        perplexity_ratio=_exp(nll - reference_nll),
        mean_kl=float(kl.mean()),
        p99_kl=float(kl.quantile(0.99)),
        top1_agreement_ratio=agreed / tokens,
        tokens=tokens,
        perplexity=_exp(nll),
        reference_perplexity=_exp(reference_nll),
    )
    return quality, tuple(measured)


def _measured_window(window: list[int], expected: Any, actual: Any) -> HeldOutWindow:
    """Return a window with the log-probabilities of its predicted tokens under both models.

    Raises:
        NotFiniteError: A log-probability is not finite.
    """
    reference_nll, nll = -float(expected.double().sum()), -float(actual.double().sum())
    if not (math.isfinite(reference_nll) and math.isfinite(nll)):
        raise NotFiniteError("The model's logits on held-out text are not finite.")
    by_token = [
        tuple(round(-value, TOKEN_DIGITS) for value in scores.flatten().tolist()) for scores in (expected, actual)
    ]
    return HeldOutWindow(
        token_ids=tuple(window),
        reference_nll=reference_nll,
        nll=nll,
        reference_token_nlls=by_token[0],
        token_nlls=by_token[1],
    )


def _exp(nats: float) -> float:
    """Return e^nats for nats up to 100, so that the result is a JSON number."""
    return math.exp(min(nats, 100.0))


def log_probabilities(model: Any, ids: Any) -> Any:
    """Return a model's log-probabilities [tokens - 1, vocabulary] for the tokens after the first.

    Layers convert 16-bit weights to float32 while in use. `StoredScores` may replace a model.
    """
    if not isinstance(model, torch.nn.Module) and hasattr(model, "log_probabilities"):
        return model.log_probabilities(ids)
    with WideWeights():
        logits = model(input_ids=ids, use_cache=False).logits
    return logits[0, :-1].float().log_softmax(-1)
