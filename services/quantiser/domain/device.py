"""Whether a worker may use a GPU."""

from collections.abc import Mapping
from typing import Literal

Device = Literal["auto", "cpu"]
"""`auto` uses a GPU if there is one; `cpu` leaves it to other processes, such as the serving engine."""


def device_environment(device: Device) -> Mapping[str, str]:
    """Return the worker's environment variables for a device.

    Quantisation libraries select accelerators themselves, so `cpu` hides the GPU from them.
    """
    return {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
