"""Query of models' routes."""

import json
from collections.abc import Iterable

from pydantic import ValidationError

from contracts.routes import Route
from services.console.queries.reading import Reader


def routes_of(reader: Reader, models: Iterable[str]) -> dict[str, Route]:
    """Return the readable routes of these models, by model."""
    routes = {}
    query = "SELECT model, body FROM routes WHERE model IN (SELECT value FROM json_each(?))"
    for entry in reader.read(query, (json.dumps(sorted(models)),)):
        try:
            routes[entry["model"]] = Route.model_validate_json(entry["body"])
        except ValidationError:
            continue
    return routes
