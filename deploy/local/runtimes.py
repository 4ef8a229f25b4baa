"""The engine environments of a stack's Tritons from one start to the next."""

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from contracts.runtimes import DEFAULT_RUNTIME
from deploy.local import plan, triton

Notes = Mapping[str, str]
"""The runtime file of each Triton, as text, by the name of its part."""


def read_notes(folder: Path, parts: Iterable[str]) -> dict[str, str]:
    """Return the runtime files in a state folder; a Triton that was never started has none."""
    paths = {part: folder / part / triton.RUNTIME_FILE for part in parts}
    return {part: path.read_text() for part, path in paths.items() if path.is_file()}


def write_notes(folder: Path, notes: Notes) -> None:
    """Write runtime files back."""
    for part, text in notes.items():
        (folder / part / triton.RUNTIME_FILE).write_text(text)


def find_exchange(before: Notes, after: Notes) -> tuple[str, str] | None:
    """Return two parts that have exchanged their environments since the last start; None if there are none."""
    old, new = _digests(before), _digests(after)
    for first, second in itertools.combinations(sorted(old.keys() & new.keys()), 2):
        if old[first] != old[second] and (old[first], old[second]) == (new[second], new[first]):
            return first, second
    return None


def describe_exchange(parts: tuple[str, str], environments: Mapping[str, Path]) -> str:
    """Return why a stack does not start whose runtimes have exchanged their environments, and what to do.

    Args:
        parts: the two parts.
        environments: the engine environment that each is to have now.
    """
    first, second = (runtime_of(part) for part in parts)
    back = " ".join(_option(runtime_of(a), environments[b]) for a, b in (parts, parts[::-1]))
    return (
        f"the runtimes {first} and {second} have exchanged their engine environments since the last start, so each "
        f"version would be served by another engine than at its release; name them as before: slipway up {back}"
    )


def runtime_of(part: str) -> str:
    """Return the name of the runtime that a Triton serves."""
    return (
        DEFAULT_RUNTIME
        if part in plan.replica_names(plan.TRITON, plan.MOST_TRITONS)
        else part.removeprefix(f"{plan.TRITON}-")
    )


def _option(runtime: str, environment: Path) -> str:
    return f"--engine-env {environment}" if runtime == DEFAULT_RUNTIME else f"--runtime {runtime}={environment}"


def _digests(notes: Notes) -> dict[str, str]:
    digests = {}
    for part, text in notes.items():
        try:
            digests[part] = str(json.loads(text)["environment_digest"])
        except (ValueError, KeyError, TypeError):
            continue  # it is written anew at each start
    return digests
