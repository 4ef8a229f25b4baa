"""What the frozen policies of versions declare, in the record. Pure."""

from typing import TypeVar

from contracts.policy import ReleasePolicy
from contracts.routes import Route
from decisions.routes.versions import versions_on
from services.rollback_controller.domain.record import GOLDEN_KEPT, VERSIONS_KEPT, RollbackState

Declared = TypeVar("Declared")


def record_policy(
    state: RollbackState, version: int, policy: ReleasePolicy, route: Route | None = None
) -> RollbackState:
    """Record triggers and golden prompts that a version was released under; the first policy of a version counts.

    Of more than `VERSIONS_KEPT` (`GOLDEN_KEPT` with golden prompts) the lowest versions are removed that are not on the
    route: no alert about them counts.
    """
    key = str(version)
    if key in state.triggers:
        return state
    golden = {key: policy.golden} if policy.golden.prompts else {}
    return state.model_copy(
        update={
            "triggers": _without_old({**state.triggers, key: policy.triggers}, route, VERSIONS_KEPT),
            "golden": _without_old({**state.golden, **golden}, route, GOLDEN_KEPT),
        }
    )


def _without_old(by_version: dict[str, Declared], route: Route | None, most: int) -> dict[str, Declared]:
    """Return what versions declared, of at most so many; those on the route stay."""
    removable = sorted(by_version.keys() - {str(version) for version in versions_on(route)}, key=int)
    excess = set(removable[: max(0, len(by_version) - most)])
    return {key: declared for key, declared in by_version.items() if key not in excess}
