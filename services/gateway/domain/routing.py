"""Which target answers a request: a pure function of the route and the request's key."""

import re
from dataclasses import dataclass

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import MODEL_NAME_PATTERN, Target
from services.gateway.domain.sampling import fraction

_PINNED = re.compile(r"(?P<model>[^@]+)(?:@v(?P<version>0|[1-9][0-9]{0,8}))?")
_MODEL = re.compile(MODEL_NAME_PATTERN)


@dataclass(frozen=True)
class Choice:
    """The target that answers, and whether it does so on trial."""

    served: ServedTarget
    canary: bool = False


@dataclass(frozen=True)
class Wanted:
    """A model as callers name it: `support-bot`, or pinned, `support-bot@v3`."""

    model: str
    version: int | None = None


def parse_name(name: str) -> Wanted | None:
    """Read the `model` of a request; None when it cannot be the name of any model."""
    found = _PINNED.fullmatch(name)
    if found is None or _MODEL.fullmatch(found["model"]) is None:
        return None
    version = found["version"]
    return Wanted(found["model"], None if version is None else int(version))


def choose_target(route: Route, key: str) -> Choice | None:
    """Choose between the active target and the canary by weight; None when nothing serves.

    The same key always gets the same side of a canary, and keeps it when the weight rises. Another canary draws
    anew, so that it is not always the same people who try things first.
    """
    canary = route.canary
    if canary is not None and not route.is_quarantined(canary.served.target):
        draw = fraction(f"{canary.served.target}|{key}")
        if draw < canary.weight_ratio:
            return Choice(canary.served, canary=True)
    return None if route.active is None else Choice(route.active)


def choose_pinned(route: Route, version: int) -> Choice | None:
    """Choose a version by number, if it is loaded for production: active, canary or previous, in this order."""
    return next((choice for choice in reachable(route) if choice.served.target.version == version), None)


def reachable(route: Route) -> list[Choice]:
    """List what a caller may pin: everything in the route that is loaded and not quarantined."""
    canary = route.canary
    candidates = [
        Choice(route.active) if route.active else None,
        Choice(canary.served, canary=True) if canary and canary.weight_ratio > 0.0 else None,
        Choice(route.previous) if route.previous else None,
    ]
    return [one for one in candidates if one is not None and not route.is_quarantined(one.served.target)]


def choose_behind(route: Route, target: Target) -> ServedTarget | None:
    """Return the target that stands behind another: the active one behind a canary, behind that the previous one."""
    line = (route.active, route.previous)
    return next((one for one in line if one and one.target != target and not route.is_quarantined(one.target)), None)


def list_models(route: Route) -> list[str]:
    """List the names under which a route's targets can be asked for."""
    versions = sorted({choice.served.target.version for choice in reachable(route)}, reverse=True)
    pinned = [f"{route.model}@v{version}" for version in versions]
    return [route.model, *pinned] if route.active is not None else pinned


def order_endpoints(served: ServedTarget, key: str) -> tuple[str, ...]:
    """Spread requests over the endpoints of a target; the second is where a failed attempt goes next."""
    count = len(served.endpoints)
    start = int(fraction(key) * count) % count
    return served.endpoints[start:] + served.endpoints[:start]


def fingerprint(served: ServedTarget) -> str:
    """Return the `system_fingerprint`: the target, and enough of its manifest's digest to find the very bytes."""
    return f"fp_{served.target}.{served.manifest.digest.removeprefix('sha256:')[:8]}"
