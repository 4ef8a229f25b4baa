"""INT4 by AutoAWQ, in its own format, which vLLM serves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from awq import AutoAWQForCausalLM
from awq.quantize.quantizer import AwqQuantizer
from huggingface_hub import save_torch_state_dict

from services.quantiser.domain import QuantisationPlan

MAX_SHARD = "512MB"
BITS = 4


class SafeAwqQuantizer(AwqQuantizer):  # type: ignore[misc]  # autoawq is untyped
    """AutoAWQ's quantiser without its defect on CPUs.

    Its scale search changes weights in place and restores them from `.cpu()` copies. On a CPU `.cpu()` returns the same
    tensor, so the originals change too, and the result is noise.
    """

    def _compute_best_scale(
        self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *args: Any, **more: Any
    ) -> Any:
        hook = module2inspect.register_state_dict_post_hook(_copy)
        try:
            return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *args, **more)
        finally:
            hook.remove()


def _copy(_module: Any, state: dict[str, Any], _prefix: str, _metadata: Any) -> None:
    """Replace the tensors of a state dict by copies."""
    for name, tensor in state.items():
        state[name] = tensor.detach().clone()


def reporting_quantiser(on_layer: Callable[[int], None]) -> type[Any]:
    """Return a quantiser class that calls `on_layer` with the number of finished layers."""

    class Reporting(SafeAwqQuantizer):
        done = 0

        def _apply_quant(self, *args: Any, **more: Any) -> None:
            super()._apply_quant(*args, **more)
            self.done += 1
            on_layer(self.done)

    return Reporting


def quantise_awq(
    plan: QuantisationPlan, merged: Path, output: Path, windows: list[list[int]], on_layer: Callable[[int], None]
) -> None:
    """Quantise a merged model with AutoAWQ; write weights and `config.json`, but no tokenizer.

    AutoAWQ uses an accelerator if there is one. Clipping is off, because it takes minutes per layer on a CPU. All
    samples form one batch: AutoAWQ gives each part of a split batch the masks of all.

    Args:
        plan: Group size, serving dtype, and modules to keep in 16 bit.
        merged: Folder of the merged model.
        output: Folder to write.
        windows: Calibration token IDs.
        on_layer: Called with the number of finished layers.
    """
    on_layer(0)
    model = AutoAWQForCausalLM.from_pretrained(
        str(merged), torch_dtype=torch.float32, device_map="cpu", trust_remote_code=False
    )
    settings = {
        "zero_point": True,
        "q_group_size": plan.group_size,
        "w_bit": BITS,
        "version": "gemm",
        "modules_to_not_convert": list(plan.ignored_modules),
    }
    length = max(len(window) for window in windows)
    model.quantize(
        None,
        settings,
        calib_data=windows,
        max_calib_samples=len(windows),
        max_calib_seq_len=length,
        apply_clip=False,
        n_parallel_calib_samples=None,
        quantizer_cls=reporting_quantiser(on_layer),
    )
    config = json.loads((merged / "config.json").read_text())
    config |= {"dtype": plan.dtype, "torch_dtype": plan.dtype}
    config["quantization_config"] = model.quant_config.to_transformers_dict()
    state = model.model.state_dict()
    if config.get("tie_word_embeddings"):
        state.pop("lm_head.weight")
    state = {name: _cast_unquantised(name, tensor, plan.dtype) for name, tensor in state.items()}
    save_torch_state_dict(state, output, max_shard_size=MAX_SHARD)
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def _cast_unquantised(name: str, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """Cast unquantised tensors to the serving dtype; scales stay in fp16, as the format requires."""
    if not tensor.is_floating_point() or name.endswith(".scales"):
        return tensor
    return tensor.to(getattr(torch, dtype))
