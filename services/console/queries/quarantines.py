"""Queries of suspended and quarantined targets, with start and author of each quarantine."""

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
"""The route change that began a target's current quarantine."""


def quarantined(reader: Reader, model: str) -> tuple[str, ...]:
    """Return a model's quarantined targets."""
    entries = reader.read("SELECT quarantined FROM routes WHERE model = ?", (model,))
    return tuple(json.loads(entries[0]["quarantined"] or "[]")) if entries else ()


def suspensions(stored: str | None) -> tuple[Suspension, ...]:
    """Parse the suspended targets of an indexed route."""
    return tuple(Suspension(**held) for held in json.loads(stored or "[]"))


def suspended(reader: Reader, model: str) -> tuple[Suspension, ...]:
    """Return a model's suspended targets."""
    entries = reader.read("SELECT suspended FROM routes WHERE model = ?", (model,))
    return suspensions(entries[0]["suspended"]) if entries else ()


def quarantines(reader: Reader, model: str, targets: Iterable[str]) -> tuple[Quarantine, ...]:
    """Return start, author and reason of each target's quarantine."""
    return tuple(_quarantine(reader, model, target) for target in targets)


def _quarantine(reader: Reader, model: str, target: str) -> Quarantine:
    began = next(iter(reader.read(_BEGAN, {"model": model, "name": f'"{target}"'})), None)
    if began is None:
        return Quarantine(target=target, since=None, by="unknown", because="", link=None)
    by, because, link = author_of(reader, began)
    return Quarantine(target=target, since=began["at"], by=by, because=because, link=link)
