"""Checks whether hardware can serve a precision, by compute capability and number of devices. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from contracts.precisions import PRECISIONS, Capability
from contracts.vocabulary import ServingSettings, Variant

_CUDA = re.compile(r"cuda:(\d{1,2})\.(\d)")


@dataclass(frozen=True)
class Hardware:
    """The hardware of a serving fleet: a CPU, or the GPU with the lowest compute capability.

    Attributes:
        capability: Compute capability; None for a CPU.
        name: Product name, for messages.
        devices: Number of GPUs; None if unknown (declared hardware, a CPU).
    """

    capability: Capability | None = None
    name: str = ""
    devices: int | None = None

    def __str__(self) -> str:
        """Return the hardware's name in messages: `NVIDIA L4 (compute capability 8.9)`."""
        if self.capability is None:
            return f"a CPU ({self.name})" if self.name else "a CPU"
        return f"{self.name or 'a GPU'} (compute capability {format_capability(self.capability)})"


def format_capability(capability: Capability) -> str:
    """Return a compute capability as NVIDIA writes it: `8.9`."""
    return f"{capability[0]}.{capability[1]}"


def parse_hardware(text: str) -> Hardware:
    """Return the hardware declared as `cpu` or `cuda:8.9`.

    Raises:
        ValueError: The text has another form.
    """
    if text == "cpu":
        return Hardware()
    match = _CUDA.fullmatch(text)
    if match is None:
        msg = f"the hardware {text!r} is not valid: write cpu, or cuda: and the compute capability, such as cuda:8.9"
        raise ValueError(msg)
    return Hardware(capability=(int(match[1]), int(match[2])))


def weakest(gpus: Iterable[Hardware]) -> Hardware | None:
    """Return the GPU with the lowest compute capability: every target must run on it; None without GPUs."""
    return min((gpu for gpu in gpus if gpu.capability), key=lambda gpu: gpu.capability or (0, 0), default=None)


def why_not_servable(variant: Variant, hardware: Hardware, serving: ServingSettings | None = None) -> str | None:
    """Return why the hardware cannot serve a precision with given settings, and the remedy; None if it can."""
    if _is_servable(variant, hardware):
        return _too_few_devices(hardware, serving)
    others = [other for other in PRECISIONS if _is_servable(other, hardware)]
    instead = f", or request {', '.join(others)}" if others else ""
    return (
        f"The serving fleet has {hardware}; {variant} needs a GPU with compute capability "
        f"{format_capability(PRECISIONS[variant].capability)} or higher. Serve it from such a machine{instead}."
    )


def _too_few_devices(hardware: Hardware, serving: ServingSettings | None) -> str | None:
    shards = serving.tensor_parallel_size if serving is not None else None
    if shards is None or hardware.devices is None or shards <= hardware.devices:
        return None
    count = f"{hardware.devices} GPU{'' if hardware.devices == 1 else 's'}"
    return (
        f"tensor_parallel_size is {shards}, but the serving fleet has {count} ({hardware}). "
        f"Publish with at most {hardware.devices}, or serve from a machine with more."
    )


def _is_servable(variant: Variant, hardware: Hardware) -> bool:
    if hardware.capability is None:
        return PRECISIONS[variant].on_cpu
    return hardware.capability >= PRECISIONS[variant].capability
