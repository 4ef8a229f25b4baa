"""Chooses the target of a request, and draws the requests that two versions answer. Pure."""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice

from contracts.facts import Inference, MirroredPair
from contracts.routes import CanaryShare, Route, ServedTarget
from contracts.trigger_metrics import CANCELLED
from contracts.vocabulary import MODEL_NAME_PATTERN, Target
from decisions.evidence.attribution import COMPARED
from decisions.rollback.suspensions import JUDGED_RATIO
from services.gateway.domain.requests import ParsedRequest

_PINNED = re.compile(r"(?P<model>[^@]+)(?:@v(?P<version>0|[1-9][0-9]{0,8}))?")
_MODEL = re.compile(MODEL_NAME_PATTERN)
_LONGEST_NAME = 80
_MOST_COMPARED = 100
_ALIKE = 0.75
"""From which share of equal characters on a name is like another."""
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_SILENT = frozenset({"no_first_token", "deadline_exceeded"})
_STATE_ON_SERVER = ("previous_response_id", "conversation", "background")
"""Fields by which an answer depends on what one engine keeps: no other can give it."""


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
    """Return the canary for which requests are drawn; None without one, or while its traffic is removed."""
    canary = route.canary_in_traffic
    is_away = canary is not None and canary.away_until is not None and now < canary.away_until
    return None if is_away else canary


def choose_target(route: Route, key: str, now: datetime, names: Collection[str] = ()) -> Choice | None:
    """Return the active target or the canary, chosen by weight; None if no target serves.

    The key is the gateway's own id of the request, so that no caller can choose its side of the draw. A canary
    may be restricted to callers of some names.
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
    """Return at most two models with names similar to an unknown one; of a long list only the first are compared."""
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


def draw_pair(route: Route, choice: Choice, parsed: ParsedRequest, draw_id: str, now: datetime) -> Choice | None:
    """Return the other target of a request's pair; None if it is in none.

    It is drawn by the gateway's own id of the request, before anything is known of its outcome. A canary's pairs come
    first, because callers depend on it; a candidate in its shadow, or else a suspended version, has its share of the
    rest.
    """
    other = find_other(route, choice.served.target)
    if other is not None and not choice.pinned and drawn_canary(route, now) is not None:
        newer = other.served if other.canary else choice.served
        drawn = fraction(f"{draw_id}|pair") < newer.pair_ratio
        if drawn and may_mirror(parsed, choice.served, other.served):
            return other
    shadow = find_shadow(route, choice.served.target)
    share = route.shadow.share_ratio if route.shadow is not None and route.shadowed is not None else JUDGED_RATIO
    drawn = shadow is not None and fraction(f"{draw_id}|shadow") < share
    may = shadow is not None and drawn and may_mirror(parsed, choice.served, shadow.served, unseen=True)
    return shadow if may else None


def find_shadow(route: Route, target: Target) -> Choice | None:
    """Return the candidate or suspended version that gets mirrored requests of the active target.

    None for another target.
    """
    active, candidate = route.active, route.shadowed or (route.judged.served if route.judged is not None else None)
    if active is None or candidate is None or target != active.target or route.is_barred(target):
        return None
    return Choice(candidate, shadow=True) if candidate.target != target else None


def asks_shadow_first(draw_id: str, other: Choice) -> bool:
    """Return whether the shadow gets a mirrored request before the serving target: in half of the draws.

    What happens to the machine between the two requests then speaks against neither.
    """
    return other.shadow and fraction(f"{draw_id}|order") < 0.5


def still_stands(route: Route, target: Target, other: Choice) -> bool:
    """Return whether two targets stand in the route as they did when their pair was drawn."""
    return (find_shadow(route, target) if other.shadow else find_other(route, target)) == other


def find_other(route: Route, target: Target) -> Choice | None:
    """Return the target that a target is compared with: canary and active with each other; None without a canary."""
    active, canary = route.active, route.canary_in_traffic
    if active is None or canary is None or route.is_barred(active.target):
        return None
    if target == active.target:
        return Choice(canary.served, canary=True)
    return Choice(active) if target == canary.served.target else None


def may_mirror(parsed: ParsedRequest, served: ServedTarget, other: ServedTarget, *, unseen: bool = False) -> bool:
    """Return whether a request can be mirrored: not if it names a version, token ids or server state.

    `unseen`: no caller gets its answer, so that it may have a smaller context, which the request is sure to fit.
    """
    requested = parse_model_name(parsed.model)
    pinned = requested is None or requested.version is not None
    fits = other.context_tokens >= served.context_tokens or (unseen and _is_short(parsed, other.context_tokens))
    template = other.chat_template is not None or not parsed.has_conversation
    return parsed.computes and not (pinned or has_state(parsed) or parsed.names_tokens) and fits and template


def _is_short(parsed: ParsedRequest, context_tokens: int) -> bool:
    """Return whether a prompt takes at most half of a context, at a token for each byte, and its answer the rest.

    An answer without a limit may be longer: `excuse_cut` leaves out what that shows.
    """
    limits = [parsed.body.get(name) for name in _LIMITS]
    longest = max((limit for limit in limits if isinstance(limit, int)), default=0)
    return max(len(parsed.raw), longest) <= context_tokens // 2


def has_state(parsed: ParsedRequest) -> bool:
    """Return whether an answer depends on state kept by one engine."""
    return parsed.kind == "responses" and any(parsed.body.get(name) for name in _STATE_ON_SERVER)


def may_follow(record: Inference) -> bool:
    """Return whether a finished request may be mirrored to two versions.

    Not after it was refused, and never where an engine died or fell silent: that request may have killed it. A caller
    that went away decides nothing: it has seen the answer.
    """
    return record.finish_reason == CANCELLED or is_known(record)


def is_known(record: Inference) -> bool:
    """Return whether an outcome shows anything about its target: an answer, or a failure of its engine."""
    return record.error in COMPARED or (record.error is None and record.caused_by is None)


def as_pair(served: Inference, mirrored: Inference, *, shadow: bool = False) -> MirroredPair | None:
    """Return the pair of two outcomes; None if either is no evidence about its target.

    Both sides are taken alike: what failed is the target's, whatever the fallback made of the request. An engine that
    died makes no pair on either side.
    """
    sides = (_as_side(served), _as_side(mirrored))
    return MirroredPair(served=sides[0], mirrored=sides[1], shadow=shadow) if all(map(is_known, sides)) else None


def excuse_cut(served: Inference, mirrored: Inference, context_tokens: int) -> Inference:
    """Return a candidate's record; a cut by its smaller context is no evidence if the active answer was long.

    That is no fault of its answer where the one of the active target takes more than half of that context. Where the
    active target needs less, a candidate that does not come to an end shows it. Of a request for several answers only
    the sum of their tokens is known, which says nothing about the length of one: it is left as it is.
    """
    tokens = served.input_tokens + served.output_tokens
    is_long = tokens > context_tokens // 2 and "output_tokens" not in served.forced_metrics
    is_cut = is_long and mirrored.finish_reason == "length" and mirrored.error is None and mirrored.drill is None
    return (
        mirrored.model_copy(update={"forced_metrics": (*mirrored.forced_metrics, "cut_off_ratio")})
        if is_cut
        else mirrored
    )


def is_silent(record: Inference) -> bool:
    """Return whether a target gave no part of an answer in time."""
    return record.error in _SILENT and record.ttft_ms is None and not record.output_tokens


def as_failed(served: Inference, mirrored: Inference) -> MirroredPair:
    """Return the pair of a request that killed the candidate's engine, or that only the candidate left unanswered.

    Only these requests can be the cause, because the candidate has no others.
    """
    failed = mirrored.model_copy(update={"caused_by": "target"})
    return MirroredPair(served=_as_side(served), mirrored=failed, shadow=True)


def _as_side(record: Inference) -> Inference:
    return record.model_copy(update={"caused_by": "target"}) if record.error in COMPARED else record
