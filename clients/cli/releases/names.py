"""The grammar of names of models, versions, releases and targets.

`MODEL`, `MODEL@vN`, `MODEL@active`, `MODEL@previous`, `MODEL@candidate`, `MODEL.vN.variant`, or a release id.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from clients.cli.errors import CommandError, Exit
from clients.cli.parsing import check_model
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Target, Variant

Role = Literal["active", "previous", "candidate"]
ROLES: tuple[Role, ...] = get_args(Role)
RELEASE_ID = re.compile(r"r-[0-9a-f]{16}-\d+")
_TARGET = re.compile(rf"(?P<model>[^.@]+)\.v(?P<version>\d+)\.(?P<variant>{'|'.join(get_args(Variant))})")
_VERSION = re.compile(r"v?(?P<number>\d{1,9})")
FINGERPRINT = re.compile(
    rf"^(?:fp_)?(?P<model>[a-z0-9][a-z0-9-]*)\.v(?P<version>\d+)\.(?P<variant>{'|'.join(get_args(Variant))})"
    r"(?:\.(?P<digest>[0-9a-f]{8}))?$"
)
FORMS = "MODEL, MODEL@vN, MODEL@active, MODEL@previous, MODEL@candidate, or a release id"
VERSION_FORMS = "MODEL@vN, MODEL@active, MODEL@previous or MODEL@candidate, for example support-bot@v2"


@dataclass(frozen=True)
class Name:
    """A parsed name: a release, or a model with a version, a role, a target or nothing further."""

    model: str = ""
    version: int | None = None
    role: Role | None = None
    release_id: str | None = None
    target: Target | None = None

    @property
    def is_model(self) -> bool:
        """Return whether the name is a model without version, role or target."""
        return self == Name(self.model)

    def __str__(self) -> str:
        """Return the name as a user writes it."""
        if self.release_id is not None:
            return self.release_id
        if self.target is not None:
            return str(self.target)
        selector = f"v{self.version}" if self.version is not None else self.role
        return self.model if selector is None else f"{self.model}@{selector}"


def parse_name(text: str) -> Name:
    """Return the parsed name.

    Raises:
        CommandError: The text has another form.
    """
    if RELEASE_ID.fullmatch(text):
        return Name(release_id=text)
    target = _TARGET.fullmatch(text)
    if target is not None:
        check_model(target["model"])
        named = Target.model_validate({**target.groupdict(), "version": int(target["version"])})
        return Name(named.model, named.version, target=named)
    model, separator, selector = text.partition("@")
    check_model(model)
    if not separator:
        return Name(model)
    number = _VERSION.fullmatch(selector)
    if number is not None:
        return Name(model, int(number["number"]))
    role = next((role for role in ROLES if role == selector), None)
    if role is None:
        near = nearest(selector, ROLES, before=f"{model}@")
        hint = f"{near} Write" if near else "write"
        raise CommandError(f"the name {text!r} is not valid: {hint} {VERSION_FORMS}", Exit.USAGE)
    return Name(model, role=role)


def parse_version_name(text: str) -> Name:
    """Return the parsed name of a version, by number or role.

    Raises:
        CommandError: The text does not name a version.
    """
    try:
        name = parse_name(text)
    except CommandError as error:
        raise CommandError(f"the version {text!r} is not valid: write {VERSION_FORMS}", Exit.USAGE) from error
    if name.release_id is None and (name.version is not None or name.role is not None):
        return name
    what = "a release" if name.release_id is not None else "a model"
    raise CommandError(f"{text!r} names {what}, and the command needs a version: write {VERSION_FORMS}", Exit.USAGE)


def target_in_route(name: Name, model: str, route: Route | None) -> Target:
    """Return the target of a name: the named target, or the target of a role or version in a route.

    Raises:
        CommandError: The name is of another model, or the route has no matching target, or several.
    """
    if name.model != model:
        raise CommandError(f"the target {name} is not valid: it belongs to {name.model}, not to {model}", Exit.USAGE)
    if name.target is not None:
        return name.target
    roles = served_roles(route)
    served = {each.target for role, each in roles.items() if name.role in (None, role)}
    matching = sorted((each for each in served if name.version in (None, each.version)), key=str)
    if name.is_model or len(matching) != 1:
        known = ", ".join(f"{role} {each.target}" for role, each in roles.items()) or "nothing"
        raise CommandError(
            f"{name} names no one target of {model}, which serves {known}: write MODEL.vN.variant, MODEL@active, "
            "MODEL@previous or MODEL@candidate",
            Exit.USAGE,
        )
    return matching[0]


def served_roles(route: Route | None) -> dict[Role, ServedTarget]:
    """Return the served target of each role that a route fills; the candidate is the shadow, else the canary."""
    canary = route.canary_in_traffic if route is not None else None
    roles: dict[Role, ServedTarget | None] = {}
    if route is not None:
        candidate = route.shadowed or (canary.served if canary is not None else None)
        roles = {"active": route.active, "previous": route.previous, "candidate": candidate}
    return {role: served for role, served in roles.items() if served is not None}


def nearest(text: str, known: Iterable[str], before: str = "") -> str:
    """Return `did you mean …?` with the most similar known names; empty if no name is similar."""
    matches = get_close_matches(text, sorted(set(known)), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(f'{before}{match}' for match in matches)}?" if matches else ""
