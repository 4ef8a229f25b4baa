"""Fast linear layers on a CPU, for as long as a `with` block: bfloat16 products, everything else in float32.

Torch's own switches are of no use. `torch.backends.mkldnn.matmul.fp32_precision` holds for the whole process and for
every product in it: on a CPU with AMX it rounds the angles of the rotary embedding, too, and positions above 256 are
off by more than a radian. `torch.autocast` rounds attention and logits, which moves a mean KL of 0.003 nats by 0.0014.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from services.quantiser.domain import Precision


class Bfloat16Linear(TorchFunctionMode):  # type: ignore[misc]
    """Computes `linear` on float32 tensors of the CPU in bfloat16, and returns float32.

    Accelerators are left alone: they have their own products. What is written as another product (rotary angles,
    Hessians, attention) stays in float32.
    """

    def __init__(self, exact: Collection[Any] = ()) -> None:
        """Keep the products of these weights in float32, such as the output head's: logits decide every figure."""
        super().__init__()
        self._exact = {id(weight) for weight in exact}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute one function of torch."""
        kwargs = kwargs or {}
        if func is not torch.nn.functional.linear:
            return func(*args, **kwargs)
        return self._linear(func, *args, **kwargs)

    def _linear(self, func: Callable[..., Any], input: Any, weight: Any, bias: Any = None) -> Any:  # noqa: A002 - torch's
        operands = [one for one in (input, weight, bias) if one is not None]
        if id(weight) in self._exact or not all(_is_plain(one) for one in operands):
            return func(input, weight, bias)
        product = func(input.bfloat16(), weight.bfloat16()).float()
        return product if bias is None else product + bias


def linear_layers(precision: Precision, exact: Collection[Any] = ()) -> AbstractContextManager[Any]:
    """Return a context in which linear layers compute in a precision, except those of the weights in `exact`."""
    return Bfloat16Linear(exact) if precision == "bfloat16" else nullcontext()


def _is_plain(value: Any) -> bool:
    """Return whether a value is a float32 tensor of the CPU, not one that only records what is done with it."""
    known = type(value) in (torch.Tensor, torch.nn.Parameter)
    return known and value.dtype == torch.float32 and value.device.type == "cpu"
