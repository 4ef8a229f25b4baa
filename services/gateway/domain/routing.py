"""Chooses the target of a request: pure functions of the route and the request's key."""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice

from contracts.routes import CanaryShare, Route, ServedTarget
from contracts.vocabulary import MODEL_NAME_PATTERN, Target

_PINNED = re.compile(r"(?P<model>[^@]+)(?:@v(?P<version>0|[1-9][0-9]{0,8}))?")
_MODEL = re.compile(MODEL_NAME_PATTERN)
_LONGEST_NAME = 80
_MOST_COMPARED = 100
_ALIKE = 0.75
"""From which share of equal characters on a name is like another."""


def fraction(key: str) -> float:
    """Return a number 0 ≤ x < 1 for a key, evenly distributed."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48


@dataclass(frozen=True)
class Choice:
    """The target that answers; whether it is a canary, or a candidate that answers no caller.

    Attributes:
        pinned: It was not drawn: the caller named it, or is none of those for whom the canary is.
    """

    served: ServedTarget
    canary: bool = False
    shadow: bool = False
    pinned: bool = False


@dataclass(frozen=True)
class RequestedModel:
    """A model as callers name it: `support-bot`, or with a pinned version, `support-bot@v3`."""

    model: str
    version: int | None = None


def parse_model_name(name: str) -> RequestedModel | None:
    """Return the model and version that the `model` of a request names; None if it is not a valid name."""
    match = _PINNED.fullmatch(name)
    if match is None or _MODEL.fullmatch(match["model"]) is None:
        return None
    version = match["version"]
    return RequestedModel(match["model"], None if version is None else int(version))


def drawn_canary(route: Route, now: datetime) -> CanaryShare | None:
    """Return the canary for which requests are drawn; None without one, and while its traffic is taken away."""
    canary = route.canary_in_traffic
    is_away = canary is not None and canary.away_until is not None and now < canary.away_until
    return None if is_away else canary


def choose_target(route: Route, key: str, now: datetime, names: Collection[str] = ()) -> Choice | None:
    """Return the active target or the canary, chosen by weight; None if no target serves.

    The key is the gateway's own id of the request, so that no caller can choose a side or take many of one. A canary
    may be only for callers of some names.
    """
    canary, declared = drawn_canary(route, now), route.canary_in_traffic
    is_left_out = declared is not None and bool(declared.only_for) and not set(declared.only_for) & set(names)
    if canary is not None and not is_left_out and fraction(f"{canary.served.target}|{key}") < canary.weight_ratio:
        return Choice(canary.served, canary=True)
    return None if route.active is None else Choice(route.active, pinned=is_left_out)


def choose_pinned(route: Route, version: int) -> Choice | None:
    """Return a version by number, if it is loaded for production: active, canary or previous, in this order."""
    choice = next((choice for choice in pinnable(route) if choice.served.target.version == version), None)
    return replace(choice, pinned=True) if choice is not None else None


def pinnable(route: Route) -> list[Choice]:
    """Return the targets that a caller may pin: those in the route that are loaded and not quarantined."""
    candidates = [Choice(served, canary=role == "canary") for role, served in route.by_role.items() if role != "shadow"]
    return [choice for choice in candidates if not route.is_barred(choice.served.target)]


def choose_fallback(route: Route, target: Target) -> ServedTarget | None:
    """Return the fallback of a target: the active target for a canary, the previous target for the active one."""
    usable = [
        served
        for served in (route.active, route.previous)
        if served is not None and served.target != target and not route.is_barred(served.target)
    ]
    return usable[0] if usable else None


def list_models(route: Route) -> list[str]:
    """Return the model names with which callers can request the targets of a route."""
    versions = sorted({choice.served.target.version for choice in pinnable(route)}, reverse=True)
    pinned = [f"{route.model}@v{version}" for version in versions]
    return [route.model, *pinned] if route.active is not None else pinned


def names_like(name: str, models: Iterable[str]) -> list[str]:
    """Return at most two of some models with names like one that does not exist; of a long list, by its first part."""
    return _closest(name[:_LONGEST_NAME].partition("@")[0], tuple(islice(models, _MOST_COMPARED)))


@lru_cache(maxsize=256)
def _closest(model: str, models: tuple[str, ...]) -> list[str]:
    """Return the closest of some names; kept, because a client that asks for a model that is gone asks on."""
    return get_close_matches(model, models, n=2, cutoff=_ALIKE)


def order_endpoints(served: ServedTarget, key: str) -> tuple[str, ...]:
    """Return the endpoints of a target in the order of attempts; the key spreads requests over them."""
    count = len(served.endpoints)
    start = int(fraction(key) * count) % count
    return served.endpoints[start:] + served.endpoints[:start]
