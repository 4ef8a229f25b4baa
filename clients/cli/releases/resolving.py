"""Resolution of names against a stack: roles to versions, unknown models to similar models."""

import contextlib
from typing import Annotated, Any

import nats.errors
import typer
from nats.js import JetStreamContext

from clients.cli.connection import StackAddress, ask_bus
from clients.cli.errors import CommandError, Exit
from clients.cli.reading import keys_of
from clients.cli.releases.names import (
    FINGERPRINT,
    VERSION_FORMS,
    Name,
    nearest,
    parse_name,
    parse_version_name,
    served_roles,
    target_in_route,
)
from clients.cli.releases.recorded_releases import recorded_releases
from clients.cli.releases.serving import read_route
from contracts.vocabulary import Target, Variant
from shared.errors import SlipwayError

ReleaseArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RELEASE",
        help="Model (its newest release), MODEL@vN, MODEL@active|previous|candidate, or release id.",
    ),
]
VersionArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL@vN", help=f"Version: {VERSION_FORMS}."),
]


AnsweringArgument = Annotated[
    str,
    typer.Argument(metavar="FINGERPRINT|MODEL@vN", help=f"system_fingerprint of an answer, or {VERSION_FORMS}."),
]


async def resolve(js: JetStreamContext, name: Name) -> Name:
    """Return a name with a version in place of its role.

    Raises:
        CommandError: No version of the model has the role.
    """
    if name.role is None:
        return name
    served = served_roles(await read_route(js, name.model)).get(name.role)
    version = served.target.version if served is not None else None
    if version is None and name.role == "candidate":
        releases = [each.progress for each in await recorded_releases(js, Name(name.model))]
        version = max((each.version for each in releases if each.outcome is None and each.version), default=None)
    if version is None:
        what = "has no candidate: no canary and no release in progress" if name.role == "candidate" else ""
        what = what or f"has no {name.role} version"
        raise CommandError(f"{name.model} {what}{await advice(js, name.model, f'slipway status {name.model}')}")
    return Name(name.model, version)


def find_target(stack: StackAddress, model: str, text: str) -> Target:
    """Return the target of a text: `MODEL.vN.variant`, or the target of a role or version in production.

    Raises:
        CommandError: There is no such target.
    """
    name = parse_name(text)
    route = None if name.target is not None else ask_bus(stack, lambda js: read_route(js, model))
    return target_in_route(name, model, route)


def version_of(stack: StackAddress, model: str, text: str) -> int:
    """Return the number of a version: `2`, `v2`, `MODEL@v2`, `previous` or `MODEL@previous`.

    Raises:
        CommandError: The text does not name a version of this model.
    """
    name, number = find_version_name(stack, text if "@" in text else f"{model}@{text}")
    if name != model:
        raise CommandError(f"the version {text!r} is not valid: it is not one of {model}", Exit.USAGE)
    return number


async def resolve_text(js: JetStreamContext, what: str | None) -> str | None:
    """Return a name with its role resolved; None for None."""
    return None if what is None else str(await resolve(js, parse_name(what)))


async def unknown_release(js: JetStreamContext, what: str) -> str:
    """Return the error message for an unknown release."""
    name = parse_name(what)
    about = f"no release of {what} yet" if name.is_model else f"there is no release {what}"
    return f"{about}{await advice(js, name.model or None, 'slipway status')}"


def find_version_name(stack: StackAddress, what: str) -> tuple[str, int]:
    """Return the model and the number of a version, named by number or role.

    Raises:
        CommandError: The text does not name a version.
    """
    name = named = parse_version_name(what)
    if name.role is not None:
        name = ask_bus(stack, lambda js: resolve(js, named))
    assert name.version is not None  # noqa: S101 - for the type checker
    return name.model, name.version


def find_answering(stack: StackAddress, what: str) -> tuple[str, int, Variant | None, str | None]:
    """Return model, version, variant and the beginning of the manifest's digest of a fingerprint or a version.

    Variant and digest are None for a version.

    Raises:
        CommandError: The text is neither a fingerprint nor the name of a version.
    """
    match = FINGERPRINT.match(what)
    if match is None:
        return (*find_version_name(stack, what), None, None)
    variant: Any = match["variant"]
    return match["model"], int(match["version"]), variant, match["digest"]


async def model_names(js: JetStreamContext) -> list[str]:
    """Return the models with a route, a stored policy or a release that this identity may read."""
    keys = [*await keys_of(js, "routes"), *await keys_of(js, "policies"), *await keys_of(js, "releases")]
    return sorted({key.partition(".")[0] for key in keys})


async def require_model(js: JetStreamContext, model: str) -> None:
    """Raise CommandError with similar models if a model is not among the known models.

    Without known models nothing is raised: records may be lost, or this identity may not read them.
    """
    with contextlib.suppress(SlipwayError, nats.errors.Error, TimeoutError):
        known = await model_names(js)
        if known and model not in known:
            raise CommandError(f"there is no model {model}{await advice(js, model, 'slipway status')}")


async def advice(js: JetStreamContext, model: str | None, command: str) -> str:
    """Return the end of an error message: similar models, and the command to run."""
    near = ""
    with contextlib.suppress(SlipwayError, nats.errors.Error, TimeoutError):  # of an error nothing is lost by it
        known = await model_names(js) if model else []
        near = nearest(model, known) if model is not None and model not in known else ""
    return f"; {near} See `{command}`" if near else f"; see `{command}`"


def advise(stack: StackAddress, model: str, command: str) -> str:
    """Return `advice` over a new connection."""
    return ask_bus(stack, lambda js: advice(js, model, command))
