"""What a server of the OpenAI API does not tell, and what of a policy would therefore never be seen."""

from collections.abc import Mapping
from typing import Final

from contracts.attachments import Attachment
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.trigger_metrics import TriggerMetric

UNTOLD: Final[Mapping[TriggerMetric, str]] = {
    "queue_ms": "how long a request waited in its queue",
    "nan_logits": "whether it met NaN logits",
}
"""What our backends report of each request, and no such server does."""


def is_attached(endpoint: str) -> bool:
    """Return whether an endpoint in a route is a server of the API, and no Triton."""
    return endpoint.startswith(("http://", "https://"))


def split_key(url: str) -> tuple[str, str]:
    """Return the name of the key that an address carries, empty without one, and the address without it."""
    scheme, _, rest = url.partition("://")
    name, at, host = rest.rpartition("@")
    return name, f"{scheme}://{host}" if at else url


def list_unseen(policy: ReleasePolicy) -> list[str]:
    """Return what of a policy an attached server cannot show, and why, as sentences."""
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


def why_not_changed(new: Attachment | None, route: Route | None) -> str | None:
    """Return why an attachment may not be stored, or removed: its model is served otherwise now; None if it may."""
    for served in route.by_role.values() if route is not None else ():
        lost = [endpoint for endpoint in served.endpoints if new is None or endpoint not in new.urls]
        if len(lost) < len(served.endpoints):
            continue
        where = ", ".join(lost)
        if not all(map(is_attached, lost)):
            return f"{served.target} is served by Triton ({where}): attach a model before its first release."
        return f"{served.target} is served by {where}: keep one of its replicas attached, or release another version."
    return None
