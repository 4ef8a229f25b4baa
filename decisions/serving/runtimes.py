"""Which runtime serves a version, and whether a fleet has it."""

import re
from collections.abc import Collection
from typing import Final

from contracts.runtimes import DEFAULT_RUNTIME
from contracts.vocabulary import ServingSettings

NAME_RULE: Final = "use 1 to 40 lower-case letters, digits and inner dots and hyphens"
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?")


def is_runtime_name(name: str) -> bool:
    """Return whether a runtime of a fleet may have this name."""
    return _NAME.fullmatch(name) is not None


def runtime_name(serving: ServingSettings | None) -> str:
    """Return the name of the runtime that serves a version with these settings."""
    return (serving.runtime if serving is not None else None) or DEFAULT_RUNTIME


def why_no_runtime(serving: ServingSettings | None, runtimes: Collection[str]) -> str | None:
    """Return why a fleet with these runtimes cannot serve a version, and what to do; None if it has its runtime."""
    name = runtime_name(serving)
    if name in runtimes:
        return None
    known = ", ".join(sorted(runtimes))
    return f"The serving fleet has no runtime {name}; it has {known}. Publish with one of them, or add {name} to it."
