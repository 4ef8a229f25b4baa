"""Chooses the target of a request, and draws requests for pairs. Pure."""

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
"""Minimum similarity ratio (`difflib`) of a suggested name."""
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_SILENT = frozenset({"no_first_token", "deadline_exceeded"})
_STATE_ON_SERVER = ("previous_response_id", "conversation", "background")
"""Fields that make an answer depend on one engine's stored state."""


def fraction(key: str) -> float:
    """Return a number 0 ≤ x < 1 for a key, evenly distributed."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48


@dataclass(frozen=True)
class Choice:
    """The chosen target, and its role.

    Attributes:
        pinned: Not drawn: the caller named the version, or may not get the canary (`only_for`).
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
    """Return the canary to draw requests for; None without one, or while its traffic is removed."""
    canary = route.canary_in_traffic
    is_away = canary is not None and canary.away_until is not None and now < canary.away_until
    return None if is_away else canary


def choose_target(route: Route, key: str, now: datetime, names: Collection[str] = ()) -> Choice | None:
    """Return the active target or the canary, chosen by weight; None if no target serves.

    `key` is the gateway's draw id, so that callers cannot choose the canary; `names` are compared with its
    `only_for`.
    """
    canary, declared = drawn_canary(route, now), route.canary_in_traffic
    is_left_out = declared is not None and bool(declared.only_for) and not set(declared.only_for) & set(names)
    if canary is not None and not is_left_out and fraction(f"{canary.served.target}|{key}") < canary.weight_ratio:
        return Choice(canary.served, canary=True)
    return None if route.active is None else Choice(route.active, pinned=is_left_out)


def choose_pinned(route: Route, version: int) -> Choice | None:
    """Return a version by number, if it is active, canary or previous; else None."""
    choice = next((choice for choice in pinnable(route) if choice.served.target.version == version), None)
    return replace(choice, pinned=True) if choice is not None else None


def pinnable(route: Route) -> list[Choice]:
    """Return the targets that a caller may pin: loaded, not quarantined or suspended, and no shadow."""
    candidates = [Choice(served, canary=role == "canary") for role, served in route.by_role.items() if role != "shadow"]
    return [choice for choice in candidates if not route.is_barred(choice.served.target)]


def choose_fallback(route: Route, target: Target) -> ServedTarget | None:
    """Return the fallback of a target: active for a canary, previous for the active one; None without one."""
    usable = [
        served
        for served in (route.active, route.previous)
        if served is not None and served.target != target and not route.is_barred(served.target)
    ]
    return usable[0] if usable else None


def list_models(route: Route) -> list[str]:
    """Return the model names that a route serves: the model, and each pinnable version."""
    versions = sorted({choice.served.target.version for choice in pinnable(route)}, reverse=True)
    pinned = [f"{route.model}@v{version}" for version in versions]
    return [route.model, *pinned] if route.active is not None else pinned


def names_like(name: str, models: Iterable[str]) -> list[str]:
    """Return at most two models with similar names, among the first `_MOST_COMPARED`."""
    return _closest(name[:_LONGEST_NAME].partition("@")[0], tuple(islice(models, _MOST_COMPARED)))


@lru_cache(maxsize=256)
def _closest(model: str, models: tuple[str, ...]) -> list[str]:
    """Return similar names; cached, because clients keep requesting a removed model."""
    return get_close_matches(model, models, n=2, cutoff=_ALIKE)


def order_endpoints(served: ServedTarget, key: str) -> tuple[str, ...]:
    """Return a target's endpoints, rotated by a hash of `key` to spread requests."""
    count = len(served.endpoints)
    start = int(fraction(key) * count) % count
    return served.endpoints[start:] + served.endpoints[:start]


def draw_pair(route: Route, choice: Choice, parsed: ParsedRequest, draw_id: str, now: datetime) -> Choice | None:
    """Return the other target of a request's pair; None if not drawn.

    The gateway's draw id decides, before any outcome is known. Pairs of a canary take precedence, because it has
    traffic; a shadow, or else a suspended version, gets its share of the remaining requests.
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
    """Return the shadow or suspended version that gets mirrored requests of `target`; None unless it is active."""
    active, candidate = route.active, route.shadowed or (route.judged.served if route.judged is not None else None)
    if active is None or candidate is None or target != active.target or route.is_barred(target):
        return None
    return Choice(candidate, shadow=True) if candidate.target != target else None


def asks_shadow_first(draw_id: str, other: Choice) -> bool:
    """Return whether the shadow gets a mirrored request before the active target: in half of the draws.

    Random order keeps changes of the machine's load from favouring either.
    """
    return other.shadow and fraction(f"{draw_id}|order") < 0.5


def still_stands(route: Route, target: Target, other: Choice) -> bool:
    """Return whether two targets have the same roles in the route as at the draw of their pair."""
    return (find_shadow(route, target) if other.shadow else find_other(route, target)) == other


def find_other(route: Route, target: Target) -> Choice | None:
    """Return the counterpart of the active target or canary; None without a canary."""
    active, canary = route.active, route.canary_in_traffic
    if active is None or canary is None or route.is_barred(active.target):
        return None
    if target == active.target:
        return Choice(canary.served, canary=True)
    return Choice(active) if target == canary.served.target else None


def may_mirror(parsed: ParsedRequest, served: ServedTarget, other: ServedTarget, *, unseen: bool = False) -> bool:
    """Return whether a request can be mirrored: not with a version, token ids, or server state.

    `unseen`: no caller gets the other answer, so a smaller context suffices if the request surely fits.
    """
    requested = parse_model_name(parsed.model)
    pinned = requested is None or requested.version is not None
    fits = other.context_tokens >= served.context_tokens or (unseen and _is_short(parsed, other.context_tokens))
    template = other.chat_template is not None or not parsed.has_conversation
    return parsed.computes and not (pinned or has_state(parsed) or parsed.names_tokens) and fits and template


def _is_short(parsed: ParsedRequest, context_tokens: int) -> bool:
    """Return whether prompt and answer take at most half of a context each, at one token per byte.

    An answer without a limit may be longer; `excuse_cut` handles it.
    """
    limits = [parsed.body.get(name) for name in _LIMITS]
    longest = max((limit for limit in limits if isinstance(limit, int)), default=0)
    return max(len(parsed.raw), longest) <= context_tokens // 2


def has_state(parsed: ParsedRequest) -> bool:
    """Return whether an answer depends on one engine's stored state."""
    return parsed.kind == "responses" and any(parsed.body.get(name) for name in _STATE_ON_SERVER)


def may_follow(record: Inference) -> bool:
    """Return whether a finished request may be mirrored.

    Not after a refusal, nor after an engine's death or silence, perhaps caused by the request. A caller's disconnect
    does not matter: it may depend on the answer.
    """
    return record.finish_reason == CANCELLED or is_known(record)


def is_known(record: Inference) -> bool:
    """Return whether an outcome is evidence about its target: an answer, or a failure of its engine."""
    return record.error in COMPARED or (record.error is None and record.caused_by is None)


def as_pair(served: Inference, mirrored: Inference, *, shadow: bool = False) -> MirroredPair | None:
    """Return the pair of two outcomes; None if either is no evidence about its target.

    Failures on both sides count against their targets, regardless of the fallback. An engine's death makes no pair.
    """
    sides = (_as_side(served), _as_side(mirrored))
    return MirroredPair(served=sides[0], mirrored=sides[1], shadow=shadow) if all(map(is_known, sides)) else None


def excuse_cut(served: Inference, mirrored: Inference, context_tokens: int) -> Inference:
    """Return a candidate's record, without `cut_off_ratio` if the smaller context explains the cut.

    It does if prompt and answer of the active target take more than half of that context; else the cut is evidence.
    Requests for several answers stay unchanged, because only the sum of their tokens is known.
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
    """Return whether a target sent no part of an answer in time."""
    return record.error in _SILENT and record.ttft_ms is None and not record.output_tokens


def as_failed(served: Inference, mirrored: Inference) -> MirroredPair:
    """Return the pair of a request that killed a shadow's engine, or that only the shadow left unanswered.

    The failure counts against the shadow: it gets no other requests.
    """
    failed = mirrored.model_copy(update={"caused_by": "target"})
    return MirroredPair(served=_as_side(served), mirrored=failed, shadow=True)


def _as_side(record: Inference) -> Inference:
    return record.model_copy(update={"caused_by": "target"}) if record.error in COMPARED else record
