"""Queries of a model's versions, from the events of their releases."""

from typing import Final

from services.console.domain.version_screen import Version, VersionComparison, build_version, compare_versions
from services.console.queries.quarantines import quarantined, quarantines, suspended
from services.console.queries.reading import Reader
from services.console.queries.releases import ROLLED_BACK_AT, release_events
from services.console.queries.timeline import deployments_of

_RELEASE: Final = f"""
SELECT release_id, outcome, {ROLLED_BACK_AT} FROM releases
WHERE model = ? AND version = ? ORDER BY opened_at LIMIT 1
"""  # noqa: S608 - a text of ours


def version(reader: Reader, model: str, number: int) -> Version | None:
    """Return a model's version; None if no release reserved the number."""
    entries = reader.read(_RELEASE, (model, number))
    if not entries:
        return None
    served = deployments_of(reader, model, f"{model}.v{number}.")
    release = entries[0]
    events = release_events(reader, release["release_id"])
    built = build_version(events, release["outcome"], served, release["rolled_back_at"])
    name = f"{model}.v{number}."
    barred = tuple(target for target in quarantined(reader, model) if target.startswith(name))
    left = tuple(held for held in suspended(reader, model) if held.target.startswith(name))
    return built and built.model_copy(update={"quarantined": quarantines(reader, model, barred), "suspended": left})


def comparison(reader: Reader, model: str, left: int, right: int) -> VersionComparison | None:
    """Compare two versions; None if one does not exist."""
    first, second = version(reader, model, left), version(reader, model, right)
    return None if first is None or second is None else compare_versions(first, second)


def numbers(reader: Reader, model: str) -> tuple[int, ...]:
    """Return a model's version numbers, newest first."""
    entries = reader.read("SELECT DISTINCT version FROM releases WHERE model = ? ORDER BY version DESC", (model,))
    return tuple(entry["version"] for entry in entries)
