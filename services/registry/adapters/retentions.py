"""Keeps versions of objects under retention: the store is asked for each once, and then what was set is known."""

from collections.abc import Container, Iterable
from datetime import timedelta

import structlog

from decisions.object_versions import is_renewed
from services.registry.settings import RegistrySettings
from shared.errors import Permanent, Transient
from shared.runtime.clock import Clock
from shared.storage.object_lock import LockingStore
from shared.storage.objects import Retention

ObjectId = tuple[str, str]
"""Key and version."""


class Retentions:
    """Retentions of all models' objects. Of one model, one caller at a time."""

    def __init__(self, store: LockingStore, settings: RegistrySettings, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._mode, self._period = settings.lock_mode, timedelta(days=settings.lock_days)
        self._known: dict[str, dict[ObjectId, Retention | None]] = {}
        self._weaker: set[ObjectId] = set()

    def begin(self) -> Retention:
        """Return the retention that something has which is kept from now on."""
        return Retention(self._mode, self._clock.now() + self._period)

    def keep(self, model: str, key: str, version: str) -> Permanent | Transient | None:
        """Keep a version of an object for a period, if less than half of one is left; return why it cannot be kept.

        A retention in `governance` mode becomes one in `compliance` mode at once if the settings ask for it. None is
        shortened or weakened: other versions of the model, or other settings, may have set it.
        """
        known = self._known.setdefault(model, {})
        try:
            if (key, version) not in known:
                known[key, version] = self._store.retention_of(key, version)
            current = known[key, version]
            if self._is_due(key, version, current):
                known[key, version] = self._extend(key, version, current)
        except (Permanent, Transient) as error:
            known.pop((key, version), None)  # asked again: another process may have set it
            if error.code != "artifact_not_found":  # the inspection finds what is lost
                structlog.get_logger().error("an object cannot be kept", object=key, version=version, why=error.reason)
            return error
        return None

    def _is_due(self, key: str, version: str, current: Retention | None) -> bool:
        if current is None or is_renewed(current.until, self._clock.now(), self._period):
            return True
        return self._mode == "compliance" != current.mode and (key, version) not in self._weaker

    def _extend(self, key: str, version: str, current: Retention | None) -> Retention:
        """Return the retention that is set; in the mode of before if the store lets it not become stricter."""
        extended = self.begin().join(current)
        try:
            self._store.retain(key, version, extended)
        except Permanent as error:
            if current is None or current.mode == extended.mode:
                raise
            structlog.get_logger().error("a lock stays in its mode", object=key, mode=current.mode, why=error.reason)
            self._weaker.add((key, version))
            extended = Retention(current.mode, extended.until)
            self._store.retain(key, version, extended)
        return extended

    def count_weaker(self, objects: Iterable[ObjectId]) -> int:
        """Return how many of these stay in `governance` mode, although the settings ask for `compliance`."""
        return len(self._weaker & set(objects))

    def forget_others(self, model: str, kept: Container[ObjectId]) -> None:
        """Forget what is known of a model's objects that are not kept any more."""
        known = self._known.get(model, {})
        self._known[model] = {
            object_version: retention for object_version, retention in known.items() if object_version in kept
        }
        self._weaker -= {object_version for object_version in known if object_version not in kept}
