"""The check of whether what serves is watched: no alert of kind `blind` is open."""

from collections.abc import Callable

from clients.cli.connection import StackAddress, ask_bus
from clients.cli.doctor.findings import Finding, failure, ok, skipped
from clients.cli.watched import read_blind

CHECK = "watching"


def check_watching(find: Callable[[], StackAddress]) -> Finding:
    """Return a failure for models of which triggers are not watched, or alerts start no rollback."""
    try:
        blind = ask_bus(find(), read_blind)
    except Exception as error:  # noqa: BLE001 - the bus has a check of its own
        return skipped(CHECK, f"not known until the message bus answers ({type(error).__name__})")
    return assess_watching(blind)


def assess_watching(blind: list[str]) -> Finding:
    """Return the finding about what open alerts say is not watched."""
    if blind:
        return failure(CHECK, " ".join(blind), "see `slipway alerts` and docs/runbooks/blind.md")
    return ok(CHECK, "no alert says that a model is not watched")
