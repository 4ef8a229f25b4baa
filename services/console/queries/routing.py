"""The routes of models, as they are in the index."""

from pydantic import ValidationError

from contracts.routes import Route
from services.console.queries.reading import Reader


def routes_of(reader: Reader) -> dict[str, Route]:
    """Return the routes by model; one that this version cannot read is left out."""
    routes = {}
    for entry in reader.read("SELECT model, body FROM routes"):
        try:
            routes[entry["model"]] = Route.model_validate_json(entry["body"])
        except ValidationError:
            continue
    return routes
