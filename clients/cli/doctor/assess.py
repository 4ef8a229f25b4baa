"""Assesses facts about a machine: pure functions from facts to findings."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from clients.cli.doctor.findings import Finding, failure, ok, warning
from decisions.serving.memory import BUDGET_RATIO, OVERHEAD_BYTES, reserved_bytes
from shared.runtime.sandbox import Protection

GIB = 1024**3
MIB = 1024**2

DISK_FAILS_BYTES, DISK_LOW_BYTES = 2 * GIB, 5 * GIB
"""The demo leaves 1.4 GB in its state folder, and writes twice that on the way."""
SHM_FAILS_BYTES, SHM_LOW_BYTES = 16 * MIB, 128 * MIB
"""Triton's Python backend takes at least 1 MiB of shared memory per loaded model, and more for large requests."""
MOST_NAMED = 4
"""How many packages a finding names."""


@dataclass(frozen=True)
class Memory:
    """Bytes that this process may use in all, and that are available now."""

    total: int
    available: int


@dataclass(frozen=True)
class Space:
    """Free bytes of the file system that holds a path."""

    path: str
    free: int


def assess_sandbox(protection: Protection) -> Finding:
    """Return the finding on the sandbox of child processes that parse external files."""
    missing = protection.missing()
    held = ", ".join(name for name in asdict(protection) if name not in missing)
    if not missing:
        return ok("sandbox", held)
    lacking = ", ".join(f"no {name} ({reason})" for name, reason in missing.items())
    return warning("sandbox", "; ".join(filter(None, (held, lacking))), "see docs/security.md, Files from outside")


def assess_memory(memory: Memory, *, weights_bytes: int, engine: str) -> Finding:
    """Return the finding on memory: two loaded models must fit for a first release, three for a second.

    The embedded stack serves on the CPU; what a model reserves is what server-manager reserves for it.
    """
    each = reserved_bytes(weights_bytes, OVERHEAD_BYTES[engine]["cpu"])
    needed, wished = (round(count * each / BUDGET_RATIO) for count in (2, 3))
    detail = f"{_gib(memory.available)} of {_gib(memory.total)} GiB available"
    if memory.total < needed:
        advice = f"{_gib(needed)} GiB are the least for a model beside the one that serves; use a larger machine"
        return failure("memory", detail, advice)
    if memory.available < 2 * each:
        return failure("memory", detail, f"end other programs until {_gib(2 * each)} GiB are available")
    if memory.total < wished:
        advice = f"with less than {_gib(wished)} GiB the second release of a model is refused (insufficient_memory)"
        return warning("memory", detail, advice)
    return ok("memory", detail)


def assess_disk(space: Space) -> Finding:
    """Return the finding about the file system of the state folder."""
    detail = f"{_gib(space.free)} GiB free for {space.path}"
    if space.free < DISK_FAILS_BYTES:
        return failure("disk", detail, f"free {_gib(DISK_FAILS_BYTES)} GiB, or name another folder with --state")
    if space.free < DISK_LOW_BYTES:
        return warning("disk", detail, f"the demo and a few releases need {_gib(DISK_LOW_BYTES)} GiB")
    return ok("disk", detail)


def assess_shared_memory(space: Space) -> Finding:
    """Return the finding about shared memory, through which Triton talks to its models."""
    detail = f"{space.free // MIB} MiB free in {space.path}"
    advice = f"give it {SHM_LOW_BYTES // MIB} MiB (containers: --shm-size); Triton dies of SIGBUS when it is full"
    if space.free < SHM_FAILS_BYTES:
        return failure("shared memory", detail, advice)
    return warning("shared memory", detail, advice) if space.free < SHM_LOW_BYTES else ok("shared memory", detail)


def assess_programs(check: str, missing: Collection[str]) -> Finding:
    """Return whether the programs that packages carry are installed."""
    if missing:
        advice = "run `make setup`; without a checkout see docs/get-started.md"
        return failure(check, f"{_named(sorted(missing))} not installed", advice)
    return ok(check, "nats-server, weed and tritonserver installed")


def _named(items: Sequence[str]) -> str:
    rest = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _gib(count: float) -> str:
    return f"{count / GIB:.1f}"
