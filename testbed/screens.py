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


@dataclass(frozen=True)
class Screen:
    """A screen.

    Attributes:
        name: The name of its picture.
        address: Its path, with parameters.
    """

    name: str
    address: str


def screens(shown: Shown) -> dict[str, Screen]:
    """Return the screens by route."""
    release, model = f"/releases/{shown.release_id}", f"/models/{shown.model}"
    return {
        "/fleet": Screen("fleet", "/fleet"),
        "/models/{model}": Screen("model", model),
        "/releases": Screen("releases", "/releases"),
        "/releases/{release_id}": Screen("release", release),
        "/releases/{release_id}/canary": Screen("canary", f"{release}/canary"),
        "/models/{model}/versions/{version}": Screen("version", f"{model}/versions/2"),
        "/models/{model}/versions/{version}/proofs": Screen("proofs", f"{model}/versions/2/proofs"),
        "/models/{model}/compare": Screen("compare", f"{model}/compare?left=1&right=2"),
        "/models/{model}/playground": Screen("playground", f"{model}/playground"),
        "/checkpoints": Screen("checkpoints", "/checkpoints"),
        "/alerts": Screen("alerts", "/alerts"),
        "/alerts/{alert_id:path}": Screen("alert", f"/alerts/{shown.alert_id}"),
        "/models/{model}/rollback": Screen("rollback", f"{model}/rollback?target={shown.target}"),
        "/timeline": Screen("timeline", "/timeline"),
        "/endpoints": Screen("endpoints", "/endpoints"),
        "/history": Screen("history", "/history"),
    }


ELSEWHERE = {
    "/": "leads to the fleet",
    "/evidence": "a report of Evidently, within the screen of an alert of drift",
    "/login": "signs in",
    "/login/oidc": "leads to an identity provider",
    "/login/callback": "comes from one",
    "/index": "the incidents at the top of every page, and a bar while the index is built",
    "/models/{model}/orders/{order_id}": "follows an order, which a story has none of",
    "/runbooks/{name}": "a runbook of the documentation",
}
"""Routes without a picture of their own."""
