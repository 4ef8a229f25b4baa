"""Dimensions of a model for planning, and the group size that fits them."""

from collections.abc import Mapping
from typing import Any, Literal

from contracts.vocabulary import Contract

Dtype = Literal["bfloat16", "float16", "float32"]
GROUP_SIZES = (128, 64, 32)


class ModelShape(Contract):
    """A merged model's dimensions from its `config.json`.

    Attributes:
        linear_dims: Input widths of quantised layers.
        output_dims: Output widths of quantised layers.
    """

    architecture: str
    layers: int
    dtype: Dtype
    linear_dims: tuple[int, ...]
    output_dims: tuple[int, ...] = ()
    quantised: bool = False


def read_shape(config: Mapping[str, Any], dtype: Dtype) -> ModelShape:
    """Read a model's dimensions from its `config.json`.

    Args:
        config: The parsed file.
        dtype: Dtype of the stored weights, as the merger recorded it.
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
    """Return the largest group size that divides every input width; None if there is none."""
    return next((size for size in GROUP_SIZES if all(dim % size == 0 for dim in linear_dims)), None)
