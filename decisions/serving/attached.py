"""Rules of attached servers of the OpenAI API: their endpoints, policies and changes."""

from collections.abc import Mapping, Sequence
from typing import Final

from contracts.attachments import Attachment
from contracts.facts import CheckpointReady
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.trigger_metrics import TriggerMetric

UNTOLD: Final[Mapping[TriggerMetric, str]] = {
    "queue_ms": "how long a request waited in its queue",
    "nan_logits": "whether it met NaN logits",
}
"""Metrics that attached servers do not report, with descriptions."""


def is_attached(endpoint: str) -> bool:
    """Return whether an endpoint in a route is an attached server instead of a Triton."""
    return endpoint.startswith(("http://", "https://"))


def split_key(url: str) -> tuple[str, str]:
    """Return the name of the API key in a URL (empty without one), and the URL without it."""
    scheme, _, rest = url.partition("://")
    name, at, host = rest.rpartition("@")
    return name, f"{scheme}://{host}" if at else url


def list_unseen(policy: ReleasePolicy) -> list[str]:
    """Return sentences on the parts of a policy that attached servers do not support."""
    unseen = [
        f"The trigger {trigger.name} watches {trigger.metric}, and an attached server does not tell "
        f"{UNTOLD[trigger.metric]}: remove it."
        for trigger in policy.triggers
        if trigger.metric in UNTOLD
    ]
    if policy.copies > 1:
        unseen.append(
            f"copies is {policy.copies}, and attached replicas are those whose addresses are given: remove it."
        )
    return unseen


def list_adapter_problems(policy: ReleasePolicy, attachment: Attachment | None, ready: CheckpointReady) -> list[str]:
    """Return sentences on why a checkpoint cannot be served as its policy's `serve` declares.

    Two adapters of one engine are slow or dead together: no trigger may roll one back for that automatically.
    """
    gets_adapters = attachment is not None and attachment.adapters is not None
    if policy.serve == "merged":
        known = "serve is merged, and the attached servers of this model get adapters"
        return [f"{known}: set serve: adapter, or attach them without adapters."] if gets_adapters else []
    if attachment is None or not gets_adapters:
        return ["serve is adapter, and no attached servers get adapters: slipway attach --adapters, or serve: merged."]
    problems = []
    if ready.weights.kind != "lora" or set(ready.variants) != {"bf16"}:
        asked = f"serve is adapter, for {ready.weights.kind} as {', '.join(ready.variants)}"
        problems.append(f"{asked}; it takes lora as bf16: publish that, or set serve: merged.")
    sharing = [trigger for trigger in policy.automatic if trigger.rule.kind in ("latency", "errors")]
    if len(attachment.groups) == 1:
        problems += [
            f"The trigger {trigger.name} rolls back on {trigger.metric}, and both versions would share an engine "
            "(shared_engine): attach a second group, or set action: manual, or serve: merged."
            for trigger in sharing
        ]
    return problems


def why_not_changed(new: Attachment | None, route: Route | None) -> str | None:
    """Return why an attachment may not be stored or removed for the model's present route; None if it may."""
    for served in route.by_role.values() if route is not None else ():
        lost = [endpoint for endpoint in served.endpoints if new is None or endpoint not in new.urls]
        if len(lost) < len(served.endpoints):
            continue
        where = ", ".join(lost)
        if not all(map(is_attached, lost)):
            return f"{served.target} is served by Triton ({where}): attach a model before its first release."
        return f"{served.target} is served by {where}: keep one of its replicas attached, or release another version."
    return None


def why_not_while_open(new: Attachment | None, old: Attachment | None, releases: Sequence[str]) -> str | None:
    """Return why an attachment may not be stored or removed while releases of its model are open; None if it may.

    Open releases may use any group, so that each group must keep a replica.
    """
    remedy = "wait until it has ended, or cancel it (`slipway cancel`)"
    if not releases:
        return None
    if old is not None and new is not None and old.adapters != new.adapters:
        return f"The release {releases[0]} is open, and adapters are in {old.adapters or 'no folder'}: {remedy}."
    if old is None:
        return f"The release {releases[0]} is open and goes to Triton: {remedy} before you attach its model."
    kept = frozenset(new.urls if new is not None else ())
    lost = [group for group, urls in old.groups.items() if kept.isdisjoint(urls)]
    return f"The release {releases[0]} is open and may use {' and '.join(lost)}: {remedy}." if lost else None
