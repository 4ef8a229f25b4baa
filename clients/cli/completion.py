"""What the shell completes: teams from files; models, versions, releases and keys from the stack."""

import asyncio
import contextlib
import io
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import typer
from nats.aio.client import Client
from nats.js import JetStreamContext

LIMIT_S = 1.5
"""The longest wait of a user who presses the tab key."""


def complete_models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models that begin so."""
    return _matching(ctx, _read_models, incomplete)


def complete_versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models that begin so; after an @, their roles and the versions that serve or served."""
    return _matching(ctx, _read_versions if "@" in incomplete else _read_models, incomplete)


def complete_releases(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models, versions and release ids that begin so."""
    if incomplete.startswith("r-"):
        return _matching(ctx, _read_releases, incomplete)
    return complete_versions(ctx, incomplete)


def complete_api_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of API keys that begin so and are not revoked."""
    return _matching(ctx, _read_api_keys, incomplete)


def complete_teams(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the teams of the folder of keys that begin so."""
    from clients.cli.key_folder import keys_of_folder

    # no folder of keys, or one that cannot be read: a shell that completes a word shows no error
    with contextlib.suppress(OSError, ValueError):
        teams = keys_of_folder(ctx.params.get("folder"), ctx.params.get("state")).teams()
        return sorted(team.name for team in teams if team.name.startswith(incomplete))
    return []


def _matching(ctx: typer.Context, read: Callable[[Client], Coroutine[Any, Any, list[str]]], begin: str) -> list[str]:
    """Return what is read and begins so; nothing if the stack does not answer at once: no error helps at a prompt."""
    from clients.cli.connection import connected, find_stack

    async def names(state: Path | None) -> list[str]:
        async with asyncio.timeout(LIMIT_S), connected(find_stack(state)) as client:
            return await read(client)

    # a shell that completes a word shows no error: without an answer there are no suggestions
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
        return sorted(name for name in asyncio.run(names(ctx.params.get("state"))) if name.startswith(begin))
    return []


async def _read_models(client: Client) -> list[str]:
    return await model_names(client.jetstream(timeout=LIMIT_S))


async def model_names(js: JetStreamContext) -> list[str]:
    """Return the models that have a route, a stored policy or a release, and that this identity may read."""
    from clients.cli.reading import keys_of

    keys = [*await keys_of(js, "routes"), *await keys_of(js, "policies"), *await keys_of(js, "releases")]
    return sorted({key.partition(".")[0] for key in keys})


async def _read_versions(client: Client) -> list[str]:
    from clients.cli.reading import RecordsOfModels
    from clients.cli.releases.names import ROLES, version_in_role
    from contracts.routes import Route

    routes = await RecordsOfModels(client.jetstream(timeout=LIMIT_S), "routes", Route).all()
    names = []
    for model, route in routes.items():
        canary = route.canary.served if route.canary is not None else None
        served = filter(None, (route.active, canary, route.previous, *route.history))
        names += [f"{model}@v{number}" for number in {each.target.version for each in served} if number > 0]
        names += [f"{model}@{role}" for role in ROLES if version_in_role(role, route, None) is not None]
    return names


async def _read_api_keys(client: Client) -> list[str]:
    from contracts.api_keys import ApiKey
    from shared.storage.kv import Bucket

    records = await Bucket(client.jetstream(timeout=LIMIT_S), "api-keys", ApiKey).all()
    return [key_id for key_id, entry in records.items() if entry.value.revoked_at is None]


async def _read_releases(client: Client) -> list[str]:
    from clients.cli.reading import keys_of
    from clients.cli.releases.names import RELEASE_ID

    keys = await keys_of(client.jetstream(timeout=LIMIT_S), "releases")
    return [name for name in (key.partition(".")[2] for key in keys) if RELEASE_ID.fullmatch(name)]
