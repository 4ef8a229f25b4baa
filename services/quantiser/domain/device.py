"""Whether a worker may use a GPU."""

from collections.abc import Mapping
from typing import Literal

Device = Literal["auto", "cpu"]
"""`auto` uses a GPU where there is one; `cpu` leaves it to others, for example to the engine that serves from it."""


def device_environment(device: Device) -> Mapping[str, str]:
    """Return the variables of a worker that may use this device.

    The quantising libraries choose an accelerator by themselves, so a GPU that they must not use is hidden from them.
    """
    return {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
