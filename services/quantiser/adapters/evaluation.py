"""Measures the quality of a variant: its next-token distributions against the merged model's, on held-out text."""

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
"""Position of each of eight neighbouring channels in a packed integer, in 4-bit steps from the low end."""
PACKED = (".qweight", ".qzeros", ".scales")


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Return the 4-bit integers of a packed matrix: [rows, columns] becomes [rows, 8 * columns]."""
    steps = (packed[:, :, None] >> torch.arange(0, 32, 4)) & 0xF
    return steps[:, :, CHANNEL_ORDER].flatten(1)


def dequantise(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the fp32 weight [outputs, inputs] of a packed layer.

    Args:
        qweight: [inputs, outputs / 8], packed.
        qzeros: [groups, outputs / 8], packed.
        scales: [groups, outputs], in the dtype that serving computes in.
    """
    group_size = qweight.shape[0] // scales.shape[0]
    zeros = unpack(qzeros).repeat_interleave(group_size, dim=0)
    steps = scales.float().repeat_interleave(group_size, dim=0)
    return ((unpack(qweight) - zeros) * steps).t().contiguous()


def load_awq(folder: Path, dtype: str) -> Any:
    """Load a model in AutoAWQ's format in fp32, with its scales rounded to `dtype` as the serving engine does it."""
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
"""Decimals of a token's negative log-likelihood, in nats: beyond them it says nothing, and makes a longer record."""


def device() -> str:
    """Return the kind of accelerator to use, or `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class NotFiniteError(Exception):
    """A model's logits are not finite on held-out text."""


def load_reference(folder: Path) -> Any:
    """Return a 16-bit model in fp32, for evaluation."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device())


def load_narrow(folder: Path) -> Any:
    """Return a model with its weights as they are stored; `log_probabilities` computes with them in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval().to(device())


def load_variant(folder: Path, engine: str, dtype: str) -> Any:
    """Return the model that an engine wrote, with the arithmetic of serving.

    Args:
        folder: The written folder.
        engine: The engine of the plan.
        dtype: The dtype that serving computes in.
    """
    if engine == "llmcompressor":
        return load_compressed(folder)
    if engine == "autoawq":
        return load_awq(folder, dtype).eval().to(device())
    return load_reference(folder)


def load_compressed(folder: Path) -> Any:
    """Return a compressed-tensors model with the arithmetic of serving: integer weights, quantised activations.

    The weights are dequantised once; activations are quantised in every forward pass. The configuration must be
    passed: `quantization_config=None` would silently read the integers as if they were weights.
    """
    config = CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that `dequantize` overrides the stored value, which is intended
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    return model.eval().to(device())


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is untyped
def measure_quality(
    reference: Any,
    candidate: Any,
    windows: list[list[int]],
    on_window: Callable[[int, int], None],
) -> tuple[Quality, tuple[HeldOutWindow, ...]]:
    """Return the figures of a comparison of two models, and the negative log-likelihood of each window for both.

    KL is taken from the reference to the candidate, in nats; the perplexity ratio is the candidate's over the
    reference's.

    Args:
        reference: The merged model, or its stored results (`stored_scores.py`).
        candidate: The variant; the reference itself if its files are those of the merged model.
        windows: Token ids; all tokens of a window but the first are predicted.
        on_window: Called after each window with (windows done, windows in total).

    Raises:
        NotFiniteError: The candidate's or the reference's output is not finite.
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
    """Return a window with the log-probabilities of its tokens after the first by the reference and the candidate.

    Raises:
        NotFiniteError: They are not finite.
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
    """Return e^nats, bounded so that the result is a JSON number."""
    return math.exp(min(nats, 100.0))


def log_probabilities(model: Any, ids: Any) -> Any:
    """Return a model's log-probabilities [tokens - 1, vocabulary] of the tokens after the first.

    Weights in 16 bit are converted to float32 while a layer uses them. A model may be one that stored its results.
    """
    if not isinstance(model, torch.nn.Module) and hasattr(model, "log_probabilities"):
        return model.log_probabilities(ids)
    with WideWeights():
        logits = model(input_ids=ids, use_cache=False).logits
    return logits[0, :-1].float().log_softmax(-1)
