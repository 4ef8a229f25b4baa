"""The sweep: hides unreferenced objects, shows referenced objects again, erases objects after a grace period."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from clients.cli.gc.references import DOCUMENT_BYTES, is_candidate, is_document, names_in, reached
from clients.cli.gc.store import Listed, SweepStore, erase
from contracts.storage.access import DATA_FORMAT, PROBE

HISTORY: Final = ("audit/", PROBE, DATA_FORMAT)
"""Prefixes of objects without references that count: the audit log, and objects about the store itself."""


@dataclass
class Swept:
    """The result of a sweep: sizes in bytes by key.

    Attributes:
        hidden: Unreferenced objects, to be erased after the grace period.
        erased: Objects that were hidden for longer than the grace period.
        shown: Hidden objects with a new reference; they are visible again.
        locked: Keys of objects that stay hidden until their retention ends.
    """

    hidden: dict[str, int] = field(default_factory=dict)
    erased: dict[str, int] = field(default_factory=dict)
    shown: dict[str, int] = field(default_factory=dict)
    locked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sweeper:
    """One run of `slipway gc`. Concurrent and interrupted runs are safe.

    Attributes:
        names: Returns the digests that records and events name now.
        grace: Minimum age of an object to be hidden, and minimum time hidden before it is erased.
        clock: Returns the current time.
    """

    store: SweepStore
    names: Callable[[], set[str]]
    grace: timedelta
    clock: Callable[[], datetime]

    def unreferenced(self) -> dict[str, int]:
        """Return the sizes of the objects that a sweep would hide now, by key."""
        listed = self.store.listing()
        kept = self._reached(listed)
        return {key: each.size for key, each in listed.items() if self._is_old(key, each) and key not in kept}

    def sweep(self) -> Swept:
        """Show referenced objects, erase objects hidden for the grace period, hide other unreferenced objects.

        An object that is referenced while it is hidden is shown again at the end. A release that did not find it has
        failed; its next attempt finds the object or makes it again.
        """
        swept = Swept()
        listed, kept = self._show(swept)
        before = self.clock() - self.grace
        for key, each in listed.items():
            if each.hidden_at is not None and each.hidden_at <= before and is_candidate(key):
                if erase(self.store, key, each):
                    swept.erased[key] = each.size
                else:
                    swept.locked.append(key)
        old = [key for key, each in listed.items() if self._is_old(key, each) and key not in kept]
        for key in sorted(old, key=lambda key: (not is_document(key, listed[key].size), key)):
            self.store.hide(key)
            swept.hidden[key] = listed[key].size
        self._show(swept)
        for key in swept.shown:
            swept.hidden.pop(key, None)
        return swept

    def _show(self, swept: Swept) -> tuple[dict[str, Listed], set[str]]:
        """Show hidden objects with references, then objects that these name; return all objects and the kept keys."""
        while True:
            listed = self.store.listing()
            kept = self._reached(listed)
            found = {key: each for key, each in listed.items() if each.hidden_by is not None and key in kept}
            for key, each in found.items():
                self.store.remove_version(key, each.hidden_by or "")
                swept.shown[key] = each.size
            if not found:
                return listed, kept

    def _is_old(self, key: str, listed: Listed) -> bool:
        return is_candidate(key) and listed.hidden_by is None and listed.modified <= self.clock() - self.grace

    def _reached(self, listed: Mapping[str, Listed]) -> set[str]:
        """Return the keys of candidates that records, events, other objects or young documents refer to."""
        names = set(self.names())
        for key, each in listed.items():
            if each.hidden_by is not None or key.startswith(HISTORY) or each.size > DOCUMENT_BYTES:
                continue
            if not is_candidate(key) or (is_document(key, each.size) and not self._is_old(key, each)):
                names |= names_in(self.store.find(key) or b"")
        candidates = {key: each.size for key, each in listed.items() if is_candidate(key)}
        return reached(names, candidates, self.store.find)
