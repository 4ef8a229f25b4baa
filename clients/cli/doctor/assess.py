"""Assesses facts about a machine: pure functions from facts to findings."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from clients.cli.doctor.findings import Finding, failure, ok, skipped, warning
from decisions.serving_memory import BUDGET_RATIO, OVERHEAD_BYTES, reserved_bytes
from shared.runtime.sandbox import Protection

GIB = 1024**3
MIB = 1024**2

MAIN_PYTHONS = ((3, 11), (3, 12), (3, 13))
"""Versions of Python on which the unit tests of everything but the engine pass."""
ENGINE_PYTHONS = ((3, 11), (3, 12))
"""Versions for which numpy 1.26, which Triton's Python backend needs, is available without a compiler."""
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
"""Processor features with which products of bfloat16 are faster than those of float32."""
DISK_FAILS_BYTES, DISK_LOW_BYTES = 2 * GIB, 5 * GIB
"""The demo leaves 1.4 GB in its state folder, and writes twice that on the way."""
SHM_FAILS_BYTES, SHM_LOW_BYTES = 16 * MIB, 128 * MIB
"""Triton's Python backend takes at least 1 MiB of shared memory per loaded model, and more for large requests."""
MOST_NAMED = 4
"""How many packages or ports a finding names."""
MAX_KL_NATS = {"float32": 1e-6, "bfloat16": 1e-3}
"""Largest mean KL from float64 per precision. Rounded rotary angles move the test model by 0.05."""
MAX_ENGINE_NATS = {"bfloat16": 0.05, "int8": 0.1}
"""Largest mean difference of vLLM's log-probabilities from float64; a correct engine has 0.014 and 0.061, and a rotary
embedding that is rounded to bfloat16 adds 0.13."""

Version = tuple[int, int]


@dataclass(frozen=True)
class Platform:
    """Operating system and architecture."""

    system: str
    machine: str


@dataclass(frozen=True)
class Cpu:
    """The processor: its name, the kernel's feature flags, usable cores, and oneDNN's limit from the environment."""

    name: str
    flags: frozenset[str]
    cores: int
    onednn_limit: str = ""


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


@dataclass(frozen=True)
class Packages:
    """An environment against its pins.

    Attributes:
        pins: How many packages are pinned; 0 if the list of pins is not here.
        wrong: Name of each package that is not as pinned, with what is installed ("" if nothing) and the pin.
    """

    pins: int
    wrong: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True)
class Ports:
    """Ports of the embedded stack: how many it needs, how many could be had, and kept ones that others listen on."""

    needed: int
    free: int
    taken: Mapping[str, int]


@dataclass(frozen=True)
class Numbers:
    """Mean KL, in nats, from a model in float64 to the same model in each numeric path; None where one is not used."""

    float32: float
    bfloat16: float | None
    processor: str


def assess_platform(facts: Platform) -> Finding:
    """Return the finding about operating system and architecture."""
    detail = f"{facts.system} {facts.machine}"
    if facts.system != "Linux":
        return failure("platform", detail, "use Linux; Triton and the supervisor run on nothing else")
    if facts.machine != "x86_64":
        return failure("platform", detail, "use x86_64; the engine's packages are pinned for it only")
    return ok("platform", detail)


def assess_sandbox(protection: Protection) -> Finding:
    """Return the finding about what holds for children that parse files from outside."""
    missing = protection.missing()
    held = ", ".join(name for name in asdict(protection) if name not in missing)
    if not missing:
        return ok("sandbox", held)
    lacking = ", ".join(f"no {name} ({reason})" for name, reason in missing.items())
    return warning("sandbox", "; ".join(filter(None, (held, lacking))), "see docs/security.md, Files from outside")


def advise_python(supported: Sequence[Version]) -> str:
    """Return what to do about an interpreter of a version that is not supported."""
    *others, last = (f"{major}.{minor}" for major, minor in supported)
    return f"run `make setup`, which takes Python {', '.join(others)} or {last}, or downloads 3.11"


def assess_python(check: str, version: Version | None, supported: Sequence[Version], *, advice: str) -> Finding:
    """Return the finding about the version of an interpreter; None if there is none."""
    versions = ", ".join(f"{major}.{minor}" for major, minor in supported)
    if version is None:
        return failure(check, f"no interpreter, one of {versions} needed", advice)
    text = f"{version[0]}.{version[1]}"
    if version not in supported:
        return failure(check, f"Python {text}, one of {versions} needed", advice)
    return ok(check, f"Python {text}")


def assess_cpu(cpu: Cpu) -> Finding:
    """Return the finding about the processor's instruction sets."""
    if "avx2" not in cpu.flags:
        return failure("cpu", f"{cpu.name} without AVX2", "use a CPU with AVX2; the engine has no code for others")
    width = "AVX-512" if "avx512f" in cpu.flags else "AVX2"
    amx = "AMX" if "amx_bf16" in cpu.flags else "no AMX"
    if cpu.onednn_limit:
        advice = "unset it unless you need it; with some values the engine dies of SIGILL at its first token"
        return warning("cpu", f"ONEDNN_MAX_CPU_ISA={cpu.onednn_limit} is set", advice)
    if not BFLOAT16 & cpu.flags:
        advice = "it works, slowly: quality is measured in float32, and the engine emulates bfloat16"
        return warning("cpu", f"{cpu.name}, {width}, no bfloat16", advice)
    return ok("cpu", f"{cpu.name}, {width}, bfloat16, {amx}")


def assess_cores(cores: int) -> Finding:
    """Return the finding about how many processes can compute at once."""
    if cores < 2:
        return warning("cores", f"{cores} usable", "give it 2 or more; the demo takes twice as long on one")
    return ok("cores", f"{cores} usable")


def assess_memory(memory: Memory, *, weights_bytes: int, engine: str) -> Finding:
    """Return whether two loaded models fit, which a first release needs, and three, for a second one.

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


def assess_ports(ports: Ports) -> Finding:
    """Return whether every part of the stack can have a port, and the one that it had."""
    if ports.free < ports.needed:
        detail = f"{ports.free} of {ports.needed} ports free on 127.0.0.1"
        return failure("ports", detail, "end programs that listen between 10000 and 31999")
    if ports.taken:
        named = _named([f"{port} ({name})" for name, port in ports.taken.items()])
        advice = "the stack starts on others; clients that use the old addresses must be told"
        return warning("ports", f"another program listens on {named}", advice)
    return ok("ports", f"{ports.needed} free on 127.0.0.1")


def assess_packages(check: str, packages: Packages) -> Finding:
    """Return the finding about an environment against its pins."""
    if not packages.pins:
        return skipped(check, "no list of pins beside this installation")
    if packages.wrong:
        named = _named([f"{name} {has or 'missing'} (pinned {pin})" for name, has, pin in packages.wrong])
        return failure(check, f"{len(packages.wrong)} of {packages.pins} not as pinned: {named}", "run `make setup`")
    return ok(check, f"{packages.pins} packages as pinned")


def assess_programs(check: str, missing: Collection[str]) -> Finding:
    """Return whether the programs that packages carry are installed."""
    if missing:
        return failure(check, f"{_named(sorted(missing))} not installed", "run `make setup`")
    return ok(check, "nats-server, weed and tritonserver installed")


def assess_numbers(numbers: Numbers) -> Finding:
    """Return whether torch computes a small model correctly, in each precision that measurements use."""
    paths = {"float32": numbers.float32, "bfloat16": numbers.bfloat16}
    used = {name: value for name, value in paths.items() if value is not None}
    detail = ", ".join(f"{name} {value:.1e}" if value else f"{name} 0" for name, value in used.items())
    detail = f"mean KL from float64 in nats: {detail} ({numbers.processor})"
    wrong = [name for name, value in used.items() if not value <= MAX_KL_NATS[name]]
    if wrong:
        limits = ", ".join(f"{name} {MAX_KL_NATS[name]:g}" for name in wrong)
        advice = f"allowed {limits}: torch computes wrongly on this CPU; report it with `slipway doctor --json`"
        return failure("numbers", detail, advice)
    return ok("numbers", detail)


def assess_engine_numbers(differences: Mapping[str, float]) -> Finding:
    """Return whether the engine's log-probabilities are near float64's, given the mean difference by precision."""
    values = ", ".join(f"{precision} {value:.3f}" for precision, value in differences.items())
    detail = f"log-probabilities of vLLM differ from float64, in nats a token: {values}"
    wrong = [precision for precision, limit in MAX_ENGINE_NATS.items() if not differences[precision] <= limit]
    if wrong:
        limits = ", ".join(f"{precision} {MAX_ENGINE_NATS[precision]:g}" for precision in wrong)
        advice = f"allowed {limits}: the engine computes wrongly on this CPU; report it with `slipway doctor --json`"
        return failure("engine numbers", detail, advice)
    return ok("engine numbers", detail)


def _named(items: Sequence[str]) -> str:
    rest = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _gib(count: float) -> str:
    return f"{count / GIB:.1f}"
