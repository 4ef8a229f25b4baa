"""Checks that a checkpoint must pass before its release is opened."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from contracts.attachments import Attachment
from contracts.codes import Code
from contracts.envelope import Event
from contracts.evaluations import StatedBound
from contracts.facts import (
    BaseModelRef,
    CheckpointMerged,
    CheckpointReady,
    CheckpointRejected,
    EvalResult,
    ReleaseOpened,
)
from contracts.limits import TooLarge
from contracts.manifests import BaseManifest
from contracts.policy import ReleasePolicy
from contracts.storage.sources import parse_file_uri, parse_hub_uri, scheme_of
from contracts.teams import Team
from contracts.vocabulary import Digest, ModelName, ServingSettings, digest_of_json
from decisions.access.teams import find_problem
from decisions.policies.problems import describe_differing, differing, list_problems
from decisions.serving.attached import list_adapter_problems, list_unseen
from decisions.serving.settings import assess_settings, combine, find_departure


def is_covered(uri: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern covers a folder; path parts are compared exactly.

    Args:
        uri: `hf://organisation/name@revision` or `file:///folder`; no pattern covers other schemes.
        patterns: Patterns that `contracts.storage.sources.check_pattern` accepts.
    """
    try:
        if scheme_of(uri) == "hf":
            name = PurePosixPath("/" + parse_hub_uri(uri).repo)
            return any(_is_below(name, "/" + pattern.removeprefix("hf://")) for pattern in _of("hf://", patterns))
        if scheme_of(uri) == "file":
            path = parse_file_uri(uri)
            return any(_is_below(path, pattern.removeprefix("file://")) for pattern in _of("file:///", patterns))
    except ValueError:
        return False
    return False


def _of(scheme: str, patterns: Iterable[str]) -> list[str]:
    return [pattern for pattern in patterns if pattern.startswith(scheme)]


def _is_below(path: PurePosixPath, pattern: str) -> bool:
    folder = PurePosixPath(pattern.removesuffix("/*"))
    return folder in path.parents if pattern.endswith("/*") else path == folder


RECORD_BYTES = 1024 * 1024
"""Maximum bytes of an opened release and of a model's record; an eighth of the bus's limit."""
_ROUNDING = 1e-9
"""Tolerance for floating point: 0.86 - 0.84 exceeds 0.02."""
_SAFE_KEY = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\Z")
_RELEASE_ID = re.compile(r"^r-[0-9a-f]{16}-[1-9][0-9]*\Z")


@dataclass(frozen=True)
class Refusal:
    """The reason why an order or a checkpoint is refused."""

    code: Code
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AllowedLocations:
    """Allowed locations of artifacts: one bucket, below the model's prefix; weights also on disk or in a hub.

    Attributes:
        file_roots: Folders on disk that may hold weights.
        hub: Whether weights may come from a model hub.
    """

    bucket: str
    file_roots: tuple[PurePosixPath, ...] = ()
    hub: bool = False

    def prefix(self, model: str) -> str:
        """Return the key prefix of a model's artifacts from publishers."""
        return f"checkpoints/{model}/"


def decide_policy(asked: ReleasePolicy | None, stored: ReleasePolicy | None) -> ReleasePolicy | Refusal:
    """Return the policy that a release freezes: the stored one, or the event's if none is stored.

    Refuse a policy that no release can pass, or whose triggers watch nothing.
    """
    policy = asked or stored
    if policy is None:
        return Refusal("policy_missing", "Neither the event nor the model declares a release policy.")
    if asked is not None and stored is not None and (fields := differing(asked, stored)):
        return Refusal("policy_differs", describe_differing(fields), {"fields": fields})
    problems = list_problems(policy)
    if problems:
        return Refusal("policy_invalid", problems[0].reason, {"field": ".".join(map(str, problems[0].field))})
    return policy


def assess_attached(ready: CheckpointReady, policy: ReleasePolicy, attachment: Attachment | None) -> Refusal | None:
    """Refuse a policy that needs signals or features that the model's attached servers do not provide."""
    unseen = list_unseen(policy) if attachment is not None else []
    problems = [*unseen, *list_adapter_problems(policy, attachment, ready)]
    return Refusal("policy_invalid", " ".join(problems), {"unseen": problems}) if problems else None


def release_key(ready: CheckpointReady, policy: ReleasePolicy) -> Digest:
    """Return the identity of a release: equal inputs give the same release, from any publisher, at any time.

    Calibration and evaluation sets count as inputs. The training's end time does not: a run that is resumed at its end
    finishes again with the same weights.
    """
    serving = combine(ready.serving, None)
    settings = {} if serving is None else {"serving": serving.model_dump(mode="json", exclude_none=True)}
    sets = {"calibration": ready.calibration, "evaluation": ready.evaluation}
    return digest_of_json(
        {
            **settings,
            **{name: ref.digest for name, ref in sets.items() if ref is not None},
            "model": ready.model,
            "weights": {"kind": ready.weights.kind, "digest": ready.weights.ref.digest},
            "base": ready.base.digest,
            "training": ready.training.model_dump(mode="json", exclude={"finished_at"}),
            "variants": sorted(set(ready.variants)),
            "policy": policy.model_dump(mode="json"),
        }
    )


def assess_evaluations(ready: CheckpointReady, policy: ReleasePolicy) -> Refusal | None:
    """Refuse a checkpoint without the evaluation set that its policy requires, before hours of work."""
    asked = [each for each in policy.evaluations.sets if each.rows == "event"]
    if asked and ready.evaluation is None:
        reason = f"The evaluation {asked[0].name} asks the checkpoint's evaluation set, and there is none."
        return Refusal("evaluation_invalid", f"{reason} Publish with --evaluation.")
    digest = ready.evaluation.digest if ready.evaluation is not None else None
    other = next((each for each in asked if each.rows_digest not in (None, digest)), None)
    if other is None:
        return None
    reason = f"The checkpoint's evaluation set is {digest}, and the evaluation {other.name} of the policy asks"
    return Refusal("evaluation_invalid", f"{reason} {other.rows_digest}. Publish with that set.")


def assess_stated(ready: CheckpointReady, policy: ReleasePolicy, active: Sequence[EvalResult] | None) -> Refusal | None:
    """Refuse a checkpoint if the publisher's evaluation figures violate the policy's bounds.

    Args:
        ready: The checkpoint.
        policy: The policy of its release.
        active: The active version's figures, for `max_drop`; None if they are unknown, so that `max_drop` fails.
    """
    own, before = ({(each.name, each.metric): each for each in figures} for figures in (ready.evals, active or ()))
    for bound in policy.evaluations.stated:
        key = bound.name, bound.metric
        problem = _find_stated_problem(bound, own.get(key), before.get(key))
        if not problem and active is None and bound.max_drop is not None:
            problem = (
                "cannot be compared with that of the active version: the store has no signed manifest of it. Restore "
                "that from a backup, or leave max_drop out of the policy"
            )
        if problem:
            return Refusal("evaluation_failed", f"The figure {bound.name} {bound.metric} {problem}.")
    return None


def _find_stated_problem(bound: StatedBound, own: EvalResult | None, before: EvalResult | None) -> str:
    if own is None:
        return "is not stated"
    if bound.higher_is_better and not own.higher_is_better:
        return "is better if it is lower, says its publisher: the policy needs higher_is_better: false"
    sign = 1.0 if bound.higher_is_better else -1.0
    if bound.limit is not None and not sign * own.value >= sign * bound.limit:
        return f"is {own.value:g}; the worst that the policy admits is {bound.limit:g}"
    if bound.max_drop is None or before is None or sign * (before.value - own.value) <= bound.max_drop + _ROUNDING:
        return ""
    return f"is {own.value:g}, and {before.value:g} of the active version; it may be {bound.max_drop:g} worse"


def assess_serving(ready: CheckpointReady) -> Refusal | None:
    """Refuse serving settings of the event that no engine accepts; the merger checks the checkpoint's own settings."""
    refused = assess_settings(ready.serving) if ready.serving is not None else None
    return Refusal(refused.code, refused.reason, refused.details) if refused is not None else None


def assess_proved_settings(opened: ReleaseOpened, merged: CheckpointMerged) -> CheckpointRejected | None:
    """Reject a merged model if its serving settings differ from the event's, or if no engine accepts them."""
    name = find_departure(opened.serving, merged.serving)
    if name is not None:
        asked, proved = (_shown(settings, name) for settings in (opened.serving, merged.serving))
        reason = f"The merged model has {name} {proved}, but {asked} was published."
        details = {"setting": name, "published": asked, "proved": proved}
        return CheckpointRejected(code="settings_mismatch", reason=reason, details=details)
    refused = assess_settings(merged.serving) if merged.serving is not None else None
    if refused is None:
        return None
    return CheckpointRejected(code=refused.code, reason=refused.reason, details=refused.details)


def _shown(settings: ServingSettings | None, name: str) -> str:
    return json.dumps(getattr(settings, name, None), default=str, sort_keys=True)[:200]


def release_id(key: Digest, attempt: int) -> str:
    """Return the ID of a release: `r-<first 16 hex digits of its key>-<attempt>`."""
    return f"r-{key.removeprefix('sha256:')[:16]}-{attempt}"


def is_release_id(text: str) -> bool:
    """Return whether a correlation ID is a release ID (events from training carry the run's ID)."""
    return _RELEASE_ID.match(text) is not None


def assess_callers(model: ModelName, policy: ReleasePolicy, known: Iterable[Team]) -> Refusal | None:
    """Refuse a policy whose canary names a team that does not exist or does not own the model."""
    teams = tuple(known)
    names = [name.removeprefix("team:") for name in policy.canary.only_for if name.startswith("team:")]
    reason = next((problem for name in names if (problem := find_problem(name, [model], teams)) is not None), None)
    return Refusal("policy_invalid", f"canary.only_for: {reason}", {"field": "canary.only_for"}) if reason else None


def assess_sources(ready: CheckpointReady, *policies: ReleasePolicy | None) -> Refusal | None:
    """Refuse weights from disk or hub that the `sources` of a given policy do not cover."""
    uri = ready.weights.ref.uri
    if scheme_of(uri) is None:
        return None
    for policy in policies:
        if policy is not None and policy.sources is not None and not is_covered(uri, policy.sources):
            named = ", ".join(policy.sources) or "none"
            reason = f"weights: {uri[:300]} is none of the sources of {ready.model}, which are: {named}."
            return Refusal("source_not_allowed", reason, {"uri": uri[:300], "sources": list(policy.sources)})
    return None


def assess_locations(ready: CheckpointReady, locations: AllowedLocations) -> Refusal | None:
    """Refuse artifacts outside the allowed locations."""
    refs = {"weights": ready.weights.ref, "calibration": ready.calibration, "evaluation": ready.evaluation}
    for name, ref in refs.items():
        if ref is None:
            continue
        problem = _uri_problem(ref.uri, ready.model, locations, weights=name == "weights")
        if problem is not None:
            return Refusal("uri_not_allowed", f"{name}: {problem}.", {"artifact": name, "uri": ref.uri[:300]})
    return None


def _uri_problem(uri: str, model: str, locations: AllowedLocations, *, weights: bool) -> str | None:
    problem = _syntax_problem(uri)
    if problem is not None:
        return problem
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return _s3_problem(parts.netloc, parts.path.removeprefix("/"), model, locations)
    if weights and parts.scheme == "file":
        return _file_problem(uri, locations)
    if weights and parts.scheme == "hf":
        return _hub_problem(uri, locations)
    allowed = "s3, file or hf" if weights else "s3; only weights may be elsewhere"
    return f"the scheme {parts.scheme[:20]!r} is not allowed; use {allowed}"


def _syntax_problem(uri: str) -> str | None:
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        return "the URI must be plain ASCII without spaces or control characters"  # urlsplit drops some of these
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "the URI cannot be read"
    if parts.query or parts.fragment or "%" in uri or "\\" in uri:
        return "the URI must be plain: no query, fragment, percent sign or backslash"
    return None


def _s3_problem(bucket: str, key: str, model: str, locations: AllowedLocations) -> str | None:
    if bucket != locations.bucket:
        return f"the bucket must be {locations.bucket}"
    if not _SAFE_KEY.match(key):
        return "the key must be a plain path without empty, dot or dot-dot parts"
    if not key.startswith(locations.prefix(model)):
        return f"the key must be below {locations.prefix(model)}"
    return None


def _file_problem(uri: str, locations: AllowedLocations) -> str | None:
    try:
        path = parse_file_uri(uri)
    except ValueError as error:
        return str(error)
    if not any(path.is_relative_to(root) for root in locations.file_roots):
        return "the path is outside the allowed roots; operations may add one to SLIPWAY_FILE_ROOTS"
    return None


def _hub_problem(uri: str, locations: AllowedLocations) -> str | None:
    """Return why a hub URI is invalid, not allowed or not pinned to a commit; None if it is allowed."""
    try:
        folder = parse_hub_uri(uri)
    except ValueError as error:
        return str(error)
    if not locations.hub:
        return "no model hub is configured here; operations may set SLIPWAY_HF_ENDPOINT"
    if not folder.pinned:
        return f"{folder.revision!r} is not a commit; name its 40 hexadecimal digits, as slipway publish does"
    return None


def base_key(base: BaseModelRef) -> str | None:
    """Return the store key of a base model's manifest; None if its name or revision is no valid key."""
    key = f"bases/{base.name}/{base.revision}.json"
    return key if _SAFE_KEY.match(key) and "//" not in key else None


def assess_base(base: BaseModelRef, imported: BaseManifest | None, bucket: str) -> Refusal | None:
    """Refuse a base model that was not imported, or differs from the imported one."""
    if imported is None:
        return Refusal("unknown_base", f"{base.name} at revision {base.revision} has not been imported.")
    if imported.folder.digest != base.digest:
        details = {"imported": imported.folder.digest, "announced": base.digest}
        return Refusal("unknown_base", f"{base.name} at {base.revision} is another model than announced.", details)
    allowed = (imported.folder.uri, f"s3://{bucket}/{base_key(base)}")
    if base.uri not in allowed:
        return Refusal("uri_not_allowed", f"base: the URI must be {allowed[0]} or {allowed[1]}.", {"uri": base.uri})
    return None


def assess_record(opened: ReleaseOpened, model_record_bytes: int) -> Refusal | None:
    """Refuse a release if its record or the model's would exceed `RECORD_BYTES`."""
    sizes = {"The release": len(opened.model_dump_json()), f"The record of {opened.model}": model_record_bytes}
    for name, size in sizes.items():
        if size > RECORD_BYTES:
            too_large = TooLarge(name, size, RECORD_BYTES, "bytes")
            return Refusal("too_large", too_large.reason, too_large.details)
    return None


def plan_opening(
    event: Event[CheckpointReady], policy: ReleasePolicy, *, key: Digest, version: int, earlier: Iterable[str] = ()
) -> ReleaseOpened:
    """Return the `release.opened` fact with all inputs of the release frozen.

    Args:
        event: The announcement.
        policy: The release's policy.
        key: Release identity without the attempt.
        version: The model's next version.
        earlier: Earlier publishers of the same weights; like the event's sender, they may be barred from approving.
    """
    ready = event.data
    return ReleaseOpened(
        release_id=release_id(key, ready.attempt),
        model=ready.model,
        version=version,
        attempt=ready.attempt,
        release_key=key,
        base=ready.base,
        weights=ready.weights,
        training=ready.training,
        evals=ready.evals,
        calibration=ready.calibration,
        evaluation=ready.evaluation,
        variants=tuple(dict.fromkeys(ready.variants)),
        policy=policy,
        source_event_id=event.id,
        publishers=tuple(dict.fromkeys((*((event.sender,) if event.sender else ()), *earlier))),
        serving=ready.serving,
    )
