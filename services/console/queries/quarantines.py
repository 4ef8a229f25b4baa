"""Suspended and quarantined targets, with the start and author of each quarantine."""

import json
from collections.abc import Iterable
from typing import Final

from services.console.domain.order_data import Quarantine
from services.console.domain.screens import Suspension
from services.console.queries.reading import Reader
from services.console.queries.timeline import author_of

_BEGAN: Final = """
SELECT at, cause_id, correlation FROM deployments WHERE model = :model AND sequence > coalesce(
  (SELECT max(sequence) FROM deployments WHERE model = :model AND instr(coalesce(quarantined, ''), :name) = 0), 0)
ORDER BY sequence LIMIT 1
"""
"""The first of the changes since which a target is quarantined without a break."""


def quarantined(reader: Reader, model: str) -> tuple[str, ...]:
    """Return the targets of a model that its route quarantines now."""
    entries = reader.read("SELECT quarantined FROM routes WHERE model = ?", (model,))
    return tuple(json.loads(entries[0]["quarantined"] or "[]")) if entries else ()


def suspensions(stored: str | None) -> tuple[Suspension, ...]:
    """Return the suspended targets of a route, from its row in the index."""
    return tuple(Suspension(**held) for held in json.loads(stored or "[]"))


def suspended(reader: Reader, model: str) -> tuple[Suspension, ...]:
    """Return the targets of a model that its route suspends now."""
    entries = reader.read("SELECT suspended FROM routes WHERE model = ?", (model,))
    return suspensions(entries[0]["suspended"]) if entries else ()


def quarantines(reader: Reader, model: str, targets: Iterable[str]) -> tuple[Quarantine, ...]:
    """Return the start and the reason of the quarantine of each of these targets."""
    return tuple(_quarantine(reader, model, target) for target in targets)


def _quarantine(reader: Reader, model: str, target: str) -> Quarantine:
    began = next(iter(reader.read(_BEGAN, {"model": model, "name": f'"{target}"'})), None)
    if began is None:
        return Quarantine(target=target, since=None, by="unknown", because="", link=None)
    by, because, link = author_of(reader, began)
    return Quarantine(target=target, since=began["at"], by=by, because=because, link=link)
