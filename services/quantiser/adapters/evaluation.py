"""Quality of a stored variant: its next-token distributions against the merged model's, on held-out text."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import CompressedTensorsConfig

from contracts.facts import Quality
from contracts.manifests import HeldOutWindow
from services.quantiser.adapters.awq_format import load_awq


class NotFiniteError(Exception):
    """A model's logits are not finite on held-out text."""


def device() -> str:
    """Name the accelerator to use, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_reference(folder: Path) -> Any:
    """Load a 16-bit model in fp32, for evaluation."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device())


def load_variant(folder: Path, engine: str, dtype: str) -> Any:
    """Load what an engine wrote as it will be served, for evaluation.

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
    """Load a compressed-tensors model as it will be served: integer weights and quantised activations, simulated.

    The weights are dequantised once; activations are quantised in every forward pass. The configuration must be
    passed: `quantization_config=None` would silently read the integers as if they were weights.
    """
    config = CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it does what is wanted: only `dequantize` is overridden
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    return model.eval().to(device())


@torch.inference_mode()  # type: ignore[untyped-decorator]
def measure_quality(
    reference: Any, candidate: Any, windows: list[list[int]], on_window: Callable[[int, int], None]
) -> tuple[Quality, tuple[HeldOutWindow, ...]]:
    """Compare two models token by token; give the figures, and what each window cost each model.

    KL is taken from the reference to the candidate, in nats; the perplexity ratio is the candidate's over the
    reference's.

    Args:
        reference: The merged model.
        candidate: The variant; the reference itself, where its files are those of the merged model.
        windows: Token ids; each window predicts all of its tokens but the first.
        on_window: Told after each window (windows done, windows in all).

    Raises:
        NotFiniteError: The candidate's or the reference's output is not finite.
    """
    divergences = []
    measured: list[HeldOutWindow] = []
    agreed = 0
    for index, window in enumerate(windows):
        ids = torch.tensor([window], device=device())
        expected = _log_probabilities(reference, ids)
        found = expected if candidate is reference else _log_probabilities(candidate, ids)
        following = ids[0, 1:, None]
        reference_nll, nll = (-float(one.gather(1, following).double().sum()) for one in (expected, found))
        if not (math.isfinite(reference_nll) and math.isfinite(nll)):
            raise NotFiniteError("The model's logits on held-out text are not finite.")
        measured.append(HeldOutWindow(token_ids=tuple(window), reference_nll=reference_nll, nll=nll))
        agreed += int((expected.argmax(-1) == found.argmax(-1)).sum())
        divergences.append((expected.exp() * (expected - found)).sum(-1))
        on_window(index + 1, len(windows))
    kl = torch.cat(divergences).double()
    tokens = int(kl.numel())
    if not bool(torch.isfinite(kl).all()):
        raise NotFiniteError("The model's logits on held-out text are not finite.")
    reference_nll = math.fsum(one.reference_nll for one in measured) / tokens
    nll = math.fsum(one.nll for one in measured) / tokens
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


def _exp(nats: float) -> float:
    """Exponentiate, bounded so that the result stays a JSON number."""
    return math.exp(min(nats, 100.0))


def _log_probabilities(model: Any, ids: Any) -> Any:
    return model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
