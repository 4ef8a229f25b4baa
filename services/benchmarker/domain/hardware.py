"""Hardware of a measurement, part of its identity: figures from different hardware are not comparable."""

from dataclasses import asdict, dataclass
from typing import Any

_GIBIBYTE = 1024**3


@dataclass(frozen=True)
class Hardware:
    """The serving machine.

    Attributes:
        cpu: CPU model as the kernel names it.
        cores: Usable logical cores.
        memory_bytes: Memory of the machine.
        gpus: Model of each accelerator.
        declared: Operators' name for the serving fleet, if another machine serves.
    """

    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    declared: str = ""

    def fingerprint(self) -> str:
        """Describe the hardware in one line, equal on equal hardware; memory in whole GiB, stable across reboots."""
        if self.declared:
            return self.declared
        gpus = ", ".join(f"{self.gpus.count(name)} x {name}" for name in sorted(set(self.gpus))) or "no GPU"
        return f"{self.cpu}, {self.cores} cores, {round(self.memory_bytes / _GIBIBYTE)} GiB, {gpus}"

    def to_data(self) -> dict[str, Any]:
        """Return the hardware as JSON data."""
        return {**asdict(self), "gpus": list(self.gpus), "fingerprint": self.fingerprint()}
