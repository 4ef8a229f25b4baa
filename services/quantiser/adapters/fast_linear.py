"""Fast linear layers on a CPU within a `with` block: bfloat16 products, everything else in float32.

Torch's own switches do not fit. `torch.backends.mkldnn.matmul.fp32_precision` applies to the whole process and to every
product: on a CPU with AMX it also rounds the angles of the rotary embedding, and positions above 256 are off by more
than a radian. `torch.autocast` rounds attention and logits, which moves a mean KL of 0.003 nats by 0.0014.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from services.quantiser.domain import Precision

NARROW = (torch.bfloat16, torch.float16)


class Bfloat16Linear(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped
    """Computes `linear` on float32 tensors of the CPU in bfloat16, and returns float32.

    Accelerators are not affected: they have fast products of their own. Other products (rotary angles, Hessians,
    attention) stay in float32.
    """

    def __init__(self, exact: Collection[Any] = ()) -> None:
        """Set the weights whose products stay in float32, such as the output head's: every figure depends on logits."""
        super().__init__()
        self._exact = {id(weight) for weight in exact}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the result of one function of torch."""
        kwargs = kwargs or {}
        if func is not torch.nn.functional.linear:
            return func(*args, **kwargs)
        return self._linear(func, *args, **kwargs)

    def _linear(self, func: Callable[..., Any], input: Any, weight: Any, bias: Any = None) -> Any:  # noqa: A002 - torch's
        others = [operand for operand in (weight, bias) if operand is not None]
        plain = _is_plain(input) and all(_is_plain(operand, also=NARROW) for operand in others)
        if id(weight) in self._exact or not plain:
            return func(input, weight, bias)
        product = func(input.bfloat16(), weight.bfloat16()).float()
        return product if bias is None else product + bias


class WideWeights(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped
    """Computes with weights in 16 bit as if they were in float32: each is converted while it is used, exactly.

    So a model needs two bytes per parameter, and its results are those of the same model in float32.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the result of one function of torch."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.embedding:
            result = func(*args, **kwargs)
            return result.float() if result.dtype in NARROW else result
        if func is torch.nn.functional.linear:
            return self._linear(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, func: Callable[..., Any], input: Any, weight: Any, bias: Any = None) -> Any:  # noqa: A002 - torch's
        if input.dtype == torch.float32 and weight.dtype in NARROW:
            return func(input, weight.float(), None if bias is None else bias.float())
        return func(input, weight, bias)


def linear_layers(precision: Precision, exact: Collection[Any] = ()) -> AbstractContextManager[Any]:
    """Return a context in which linear layers compute in a precision, except those of the weights in `exact`."""
    return Bfloat16Linear(exact) if precision == "bfloat16" else nullcontext()


def _is_plain(value: Any, also: Collection[Any] = ()) -> bool:
    """Return whether a value is a float32 tensor of the CPU, and not a subclass that only records operations.

    `also` are other dtypes that it may have.
    """
    is_tensor = type(value) in (torch.Tensor, torch.nn.Parameter)
    return is_tensor and value.dtype in (torch.float32, *also) and value.device.type == "cpu"
