"""The hardware of a measurement: a part of its identity, because figures of other hardware cannot be compared."""

from dataclasses import asdict, dataclass
from typing import Any

_GIBIBYTE = 1024**3


@dataclass(frozen=True)
class Hardware:
    """The machine that serves.

    Attributes:
        cpu: Model of the processor, as the operating system names it.
        cores: Logical cores that may be used.
        memory_bytes: Memory of the machine.
        gpus: Models of the accelerators, one per device.
        declared: Name that operators give the serving fleet if it is not this machine.
    """

    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    declared: str = ""

    def fingerprint(self) -> str:
        """Return one line that is the same on equal hardware; memory in whole GiB, so that a reboot has no effect."""
        if self.declared:
            return self.declared
        gpus = ", ".join(f"{self.gpus.count(name)} x {name}" for name in sorted(set(self.gpus))) or "no GPU"
        return f"{self.cpu}, {self.cores} cores, {round(self.memory_bytes / _GIBIBYTE)} GiB, {gpus}"

    def to_data(self) -> dict[str, Any]:
        """Return the hardware as JSON data for the report."""
        return {**asdict(self), "gpus": list(self.gpus), "fingerprint": self.fingerprint()}
