"""`slipway models`: every model, with what serves it and its newest release."""

import asyncio
from typing import Any

from clients.cli.connection import StackAddress, connected, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import show_json, show_line, show_table
from clients.cli.reading import RecordsOfModels, keys_of
from clients.cli.recorded_releases import read_releases
from contracts.facts.progress import ReleaseProgress
from contracts.routes import Route, ServedTarget

COLUMNS = ("model", "active", "canary or shadow", "previous", "quarantined", "newest release", "policy")


def models(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the models: what serves each, its newest release, and whether it has a stored policy."""
    rows = asyncio.run(_models(find_stack(state)))
    if as_json:
        show_json(rows)
    elif not rows:
        show_line("no model yet; publish a checkpoint with `slipway publish`")
    else:
        show_table(COLUMNS, [_cells(row) for row in rows])


async def _models(stack: StackAddress) -> list[dict[str, Any]]:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        routes = await RecordsOfModels(js, "routes", Route).all()
        policies = set(await keys_of(js, "policies"))
        newest = {release.progress.model: release.progress for release in await read_releases(js, None)}
    known = sorted({*routes, *policies, *newest})
    return [row_of(model, routes.get(model), newest.get(model), model in policies) for model in known]


def row_of(model: str, route: Route | None, newest: ReleaseProgress | None, has_policy: bool) -> dict[str, Any]:
    """Return what is listed of a model, as JSON data."""
    canary = route.canary_in_traffic if route is not None else None
    return {
        "model": model,
        "active": _name(route.active) if route is not None else None,
        "canary": _name(canary.served) if canary is not None else None,
        "canary_ratio": canary.weight_ratio if canary is not None else 0.0,
        "shadow": _name(route.shadowed) if route is not None else None,
        "previous": _name(route.previous) if route is not None else None,
        "suspended": [str(each.served.target) for each in route.suspended] if route is not None else [],
        "quarantined": [str(target) for target in route.quarantined] if route is not None else [],
        "epoch": route.epoch if route is not None else 0,
        "release": None if newest is None else _release(newest),
        "policy": has_policy,
    }


def _release(newest: ReleaseProgress) -> dict[str, Any]:
    return {"release_id": newest.release_id, "version": newest.version, "state": newest.state}


def _name(served: ServedTarget | None) -> str | None:
    return str(served.target) if served is not None else None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    release = row["release"]
    shadow = f"{row['shadow']} in its shadow" if row["shadow"] else "-"
    version = f"v{release['version']} " if release is not None and release["version"] is not None else ""
    return (
        row["model"],
        row["active"] or "-",
        f"{row['canary']} {row['canary_ratio']:.0%}" if row["canary"] else shadow,
        row["previous"] or "-",
        ", ".join(row["quarantined"]) or "-",
        f"{version}{release['state']}" if release is not None else "-",
        "stored" if row["policy"] else "-",
    )
