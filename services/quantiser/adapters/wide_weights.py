"""Computes in float32 with models whose weights stay in 16 bit."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NARROW = (torch.bfloat16, torch.float16)


class WideWeights(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped
    """Converts 16-bit weights to float32 while in use.

    A model then needs two bytes per parameter and gives the same results as in float32.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a torch function with converted weights."""
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
