"""Query of models' shadows, with evidence from the events of their releases."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from services.console.domain.screens import ShadowProgress
from services.console.domain.shadow_screen import shadow_of
from services.console.queries.reading import Reader
from services.console.queries.releases import release_events

_BEGAN: Final = """
SELECT correlation FROM deployments WHERE model = ? AND cause = 'shadow' AND shadow = ?
ORDER BY sequence DESC LIMIT 1
"""


def shadows(reader: Reader, entries: Iterable[Mapping[str, Any]]) -> dict[str, ShadowProgress]:
    """Return shadow progress by model, for routes with a shadow."""
    return {entry["model"]: _shadow(reader, entry) for entry in entries if entry["shadow"] is not None}


def _shadow(reader: Reader, entry: Mapping[str, Any]) -> ShadowProgress:
    began = next(iter(reader.read(_BEGAN, (entry["model"], entry["shadow"]))), None)
    release_id = began["correlation"] if began is not None and str(began["correlation"]).startswith("r-") else None
    events = release_events(reader, release_id) if release_id is not None else []
    return shadow_of(entry["shadow"], entry["shadow_share"], release_id, events)
