"""Objects that a writer finds and relies on, protected from a sweep that is about to remove them."""

import time
from collections.abc import Callable
from typing import Protocol

from contracts.garbage import KEPT, PLAN, PLAN_READ_S, SWEPT, GcPlan
from contracts.vocabulary import ArtifactRef
from decisions.sealed_log.garbage import decision_key, is_candidate
from shared.errors import Permanent, Transient


class Objects(Protocol):
    """The store, as far as claims need it."""

    def find(self, key: str) -> bytes | None:
        """Read a small object whole; None when it does not exist."""

    def create(self, key: str, data: bytes) -> ArtifactRef:
        """Write an object that must not exist yet; raise `AlreadyExists` when it does."""


class Claims:
    """What one process knows of the plan, and its claims on objects of it.

    A plan is read once a minute. It says from when on it may be carried out, and that is later than every reader's next
    look. So a claim is refused, or it is made before the sweep decides about the object.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """Take a clock that counts seconds."""
        self._now_s = now_s
        self._read_at: float | None = None
        self._plan: GcPlan | None = None

    def claim(self, store: Objects, key: str, taken: type[Exception]) -> None:
        """Keep an object, if a plan names it. Call it before looking whether the object is there.

        Args:
            store: The store.
            key: The object.
            taken: What `create` raises where the key is taken.

        Raises:
            Transient: `store_unavailable`: the object is being removed, and can be written again later; or the plan
                cannot be read.
        """
        if not is_candidate(key):
            return
        plan = self._current(store)
        if plan is None or key not in plan.objects:
            return
        decision = decision_key(plan.id, key)
        try:
            store.create(decision, KEPT)
        except taken:
            if store.find(decision) == SWEPT:
                self._read_at = None  # the plan may be carried out by now
                reason = f"The object {key} is being removed by `slipway gc`; it is written again once that is done."
                raise Transient("store_unavailable", reason) from None

    def _current(self, store: Objects) -> GcPlan | None:
        now = self._now_s()
        if self._read_at is None or now - self._read_at >= PLAN_READ_S:
            try:
                data = store.find(PLAN)
                self._plan = GcPlan.model_validate_json(data) if data is not None else None
            except (Permanent, ValueError) as error:
                reason = f"{PLAN} cannot be read, so that nothing it may name is relied on: {error}"
                raise Transient("store_unavailable", reason) from error
            self._read_at = now
        return self._plan
