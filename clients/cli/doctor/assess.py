"""Assessment of facts about a machine. Pure."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from clients.cli.doctor.findings import Finding, failure, ok, warning
from decisions.serving.memory import BUDGET_RATIO, OVERHEAD_BYTES, reserved_bytes
from shared.runtime.sandbox import Protection

GIB = 1024**3
MIB = 1024**2

DISK_FAILS_BYTES, DISK_LOW_BYTES = 2 * GIB, 5 * GIB
"""The demo leaves 1.4 GB in its state folder, and writes twice that on the way."""
SHM_FAILS_BYTES, SHM_LOW_BYTES = 16 * MIB, 128 * MIB
"""Triton's Python backend takes at least 1 MiB of shared memory per loaded model, and more for large requests."""


def assess_sandbox(protection: Protection) -> Finding:
    """Return the finding on the sandbox of child processes that parse external files."""
    missing = protection.missing()
    held = ", ".join(name for name in asdict(protection) if name not in missing)
    if not missing:
        return ok("sandbox", held)
    lacking = ", ".join(f"no {name} ({reason})" for name, reason in missing.items())
    return warning("sandbox", "; ".join(filter(None, (held, lacking))), "see docs/security.md, Files from outside")


def assess_memory(total: int, available: int, *, weights_bytes: int, engine: str) -> Finding:
    """Return the finding on memory: two loaded models must fit for a first release, three for a second.

    The size of each is the reservation of server-manager for a model on the CPU.

    Args:
        total: Bytes that this process may use.
        available: Bytes that are available now.
        weights_bytes: Size of the model's weights.
        engine: The serving engine.
    """
    each = reserved_bytes(weights_bytes, OVERHEAD_BYTES[engine]["cpu"])
    needed, wished = (round(count * each / BUDGET_RATIO) for count in (2, 3))
    detail = f"{_gib(available)} of {_gib(total)} GiB available"
    if total < needed:
        advice = f"{_gib(needed)} GiB are the least for a model beside the one that serves; use a larger machine"
        return failure("memory", detail, advice)
    if available < 2 * each:
        return failure("memory", detail, f"end other programs until {_gib(2 * each)} GiB are available")
    if total < wished:
        advice = f"with less than {_gib(wished)} GiB the second release of a model is refused (insufficient_memory)"
        return warning("memory", detail, advice)
    return ok("memory", detail)


def assess_disk(free: int, where: str) -> Finding:
    """Return the finding on the free bytes of the state folder's file system."""
    detail = f"{_gib(free)} GiB free for {where}"
    if free < DISK_FAILS_BYTES:
        return failure("disk", detail, f"free {_gib(DISK_FAILS_BYTES)} GiB, or name another folder with --state")
    if free < DISK_LOW_BYTES:
        return warning("disk", detail, f"the demo and a few releases need {_gib(DISK_LOW_BYTES)} GiB")
    return ok("disk", detail)


def assess_shared_memory(free: int, where: Path) -> Finding:
    """Return the finding on the free bytes of shared memory, used between Triton and its models."""
    detail = f"{free // MIB} MiB free in {where}"
    advice = f"give it {SHM_LOW_BYTES // MIB} MiB (containers: --shm-size); Triton dies of SIGBUS when it is full"
    if free < SHM_FAILS_BYTES:
        return failure("shared memory", detail, advice)
    return warning("shared memory", detail, advice) if free < SHM_LOW_BYTES else ok("shared memory", detail)


def assess_programs(missing: Collection[str]) -> Finding:
    """Return the finding on the programs that packages install."""
    if missing:
        advice = "run `make setup`; without a checkout see docs/get-started.md"
        return failure("programs", f"{', '.join(sorted(missing))} not installed", advice)
    return ok("programs", "nats-server, weed and tritonserver installed")


def _gib(count: float) -> str:
    return f"{count / GIB:.1f}"
