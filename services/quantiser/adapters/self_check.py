"""Whether torch computes truly on this CPU: a small model in the precisions of measurements, against float64.

`python -m services.quantiser.adapters.self_check [FOLDER]` reports it to its parent, by `shared.runtime.worker`. With
a folder it leaves the model there, the same in INT8 in its folder `int8`, and `expected.json` with what an engine
should give for both: token ids, and the log-probability of each but the first.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from services.quantiser.adapters.evaluation import log_probabilities
from services.quantiser.adapters.processor import this_processor
from services.quantiser.domain import Precision, choose_precision
from shared.runtime.worker import job_main

SEED = 7
TOKENS = 384
"""More than 256: a rotary embedding that is rounded to bfloat16 is wrong from there on."""
SHARPNESS = 0.08
"""Standard deviation of the weights: with the usual 0.02 attention would hardly depend on positions."""
CONFIG = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": SHARPNESS,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
QUANTIZATION_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**_INT8, "strategy": "token", "dynamic": True},
        }
    },
}
"""What the quantiser's INT8 variants have: a scale per row of weights, and one per token of activations."""


def make_model() -> Any:
    """Return a small Llama with weights that bfloat16 represents exactly, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    return model


def make_tokens() -> torch.Tensor:
    """Return the token ids that are scored, always the same ones."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(3, CONFIG["vocab_size"], (1, TOKENS), generator=generator)


class ExactAngles(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A rotary embedding whose angles are products of float64, made without a matrix product."""

    def __init__(self, theta: float, head_dim: int) -> None:
        super().__init__()
        self._frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine of the angle of each position and dimension."""
        angles = position_ids[:, :, None].double() * self._frequencies
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is untyped
def exact_log_probabilities(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities [tokens - 1, vocabulary] of a model in float64, and leave the model in float32."""
    core, theta = model.model, model.config.rope_parameters["rope_theta"]
    usual, core.rotary_emb = core.rotary_emb, ExactAngles(theta, model.config.head_dim)
    logits = model.double()(input_ids=ids, use_cache=False).logits[0, :-1]
    core.rotary_emb = usual
    model.float()
    return logits.log_softmax(-1)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is untyped
def mean_kl(model: Any, ids: torch.Tensor, exact: torch.Tensor, precision: Precision) -> float:
    """Return the mean KL, in nats, from float64 to the model in a precision."""
    computed = log_probabilities(model, ids, precision).double()
    return max(0.0, float((exact.exp() * (exact - computed)).sum(-1).mean()))  # rounding can leave -1e-9


def work(arguments: list[str]) -> dict[str, Any]:
    """Return the mean KL of each precision that measurements use here, and the processor."""
    processor, model, ids = this_processor(), make_model(), make_tokens()
    exact = exact_log_probabilities(model, ids)
    fast = choose_precision(processor) == "bfloat16"
    if arguments:
        folder = Path(arguments[0])
        model.save_pretrained(folder, safe_serialization=True)
        write_int8(folder / "int8", model)
        write_expected(folder / "expected.json", ids, exact)
    return {
        "float32": mean_kl(model, ids, exact, "float32"),
        "bfloat16": mean_kl(model, ids, exact, "bfloat16") if fast else None,
        "processor": processor.instruction_set or processor.device,
    }


def write_int8(folder: Path, model: Any) -> None:
    """Write a model with linear layers in INT8, rounded to the nearest value."""
    tensors = {}
    for name, weight in model.state_dict().items():
        if name.endswith("_proj.weight"):
            scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
            tensors[name] = (weight / scale).round().clamp(-127, 127).to(torch.int8)
            tensors[f"{name}_scale"] = scale
        else:
            tensors[name] = weight.bfloat16()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_dict(), "dtype": "bfloat16", "quantization_config": QUANTIZATION_CONFIG}
    (folder / "config.json").write_text(json.dumps(config))


def write_expected(path: Path, ids: torch.Tensor, exact: torch.Tensor) -> None:
    """Write what an engine should give for the model."""
    following = exact.gather(1, ids[0, 1:, None])[:, 0]
    path.write_text(json.dumps({"token_ids": ids[0].tolist(), "log_probabilities": following.tolist()}))


if __name__ == "__main__":
    job_main(work)
