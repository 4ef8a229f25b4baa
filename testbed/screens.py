"""Every screen of the console by the route that serves it, with an address that shows something on a stack."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """What a stack has that screens are about.

    Attributes:
        model: A model that serves.
        release_id: A release of it.
        alert_id: An alert about it.
        target: A target that serves.
    """

    model: str
    release_id: str
    alert_id: str
    target: str


def screens(shown: Shown) -> dict[str, str]:
    """Return the addresses by route."""
    release, model = f"/releases/{shown.release_id}", f"/models/{shown.model}"
    return {
        "/fleet": "/fleet",
        "/models/{model}": model,
        "/releases": "/releases",
        "/releases/{release_id}": release,
        "/alerts": "/alerts",
        "/alerts/{alert_id:path}": f"/alerts/{shown.alert_id}",
        "/models/{model}/rollback": f"{model}/rollback?target={shown.target}",
        "/timeline": "/timeline",
        "/history": "/history",
        "/index": "/index",
    }


ELSEWHERE = {
    "/": "leads to the fleet",
}
"""Routes that are no screens, or that are looked at on the way to one."""
