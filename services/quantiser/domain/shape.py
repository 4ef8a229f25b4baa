"""The shape of a model as planning needs it, and the group size that fits it."""

from collections.abc import Mapping
from typing import Any, Literal

from contracts.vocabulary import Contract

Dtype = Literal["bfloat16", "float16", "float32"]
GROUP_SIZES = (128, 64, 32)


class ModelShape(Contract):
    """A merged model, as its `config.json` describes it.

    `linear_dims` are the input widths of the quantised layers, `output_dims` their output widths.
    """

    architecture: str
    layers: int
    dtype: Dtype
    linear_dims: tuple[int, ...]
    output_dims: tuple[int, ...] = ()
    quantised: bool = False


def read_shape(config: Mapping[str, Any], dtype: Dtype) -> ModelShape:
    """Return the shape of a model from its `config.json`.

    Args:
        config: The parsed file.
        dtype: The dtype that the weights are stored in, as the merger recorded it.
    """
    hidden = int(config.get("hidden_size") or 0)
    heads = int(config.get("num_attention_heads") or 1)
    head_dim = int(config.get("head_dim") or hidden // heads)
    key_heads = int(config.get("num_key_value_heads") or heads)
    linear_attention = int(config.get("linear_num_value_heads") or 0) * int(config.get("linear_value_head_dim") or 0)
    inputs = {hidden, int(config.get("intermediate_size") or 0), heads * head_dim, linear_attention} - {0}
    return ModelShape(
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        layers=int(config.get("num_hidden_layers") or 0),
        dtype=dtype,
        linear_dims=tuple(sorted(inputs)),
        output_dims=tuple(sorted((inputs | {key_heads * head_dim}) - {0})),
        quantised=bool(config.get("quantization_config")),
    )


def choose_group_size(linear_dims: tuple[int, ...]) -> int | None:
    """Return the largest group size that divides the input width of every quantised layer; None if none does."""
    return next((size for size in GROUP_SIZES if all(dim % size == 0 for dim in linear_dims)), None)
