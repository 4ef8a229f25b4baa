"""A route as files of another router: clusters and weights of Envoy, `model_list` of LiteLLM's proxy. Pure.

Sources: Envoy, "Dynamic configuration from the file system" (a file of resources of one type, replaced by a rename);
LiteLLM, "Router: load balancing" (`weight` of each deployment).
"""

from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from contracts.routes import Route, ServedTarget

Router = Literal["envoy", "litellm"]
ROUTERS = get_args(Router)
Files = dict[str, Any]
"""Documents by file name, in the order of writing."""
_TOTAL = 10_000
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def export_route(route: Route, router: Router) -> Files | str:
    """Return a route as files of another router, or a sentence with the reason why it cannot be exported."""
    shares = _shares(route)
    if not shares:
        return f"nothing serves {route.model}"
    # All clusters are written first, so that no weight names an unknown one, the one to roll back to among them.
    held = {served.target.triton_name: served for served in (*route.by_role.values(), *route.history)}
    addresses = [address for served in held.values() for address in served.endpoints]
    foreign = next((address for address in addresses if not address.startswith(("http://", "https://"))), None)
    if foreign is not None:
        return f"{route.model} is served by the Triton {foreign}, whose answers only gateways read"
    if router == "litellm":
        return {"model_list.json": {"model_list": _deployments(route.model, shares)}}
    path = next(filter(lambda address: urlsplit(address).path, addresses), None)
    if path is not None:
        return f"the address {path} has a path, which Envoy would have to add for one cluster of several"
    return {
        "clusters.json": {"resources": [_cluster(name, served) for name, served in held.items()]},
        "routes.json": {"resources": [_weights(route.model, shares)]},
    }


def _shares(route: Route) -> list[tuple[ServedTarget, float]]:
    """Return the targets with traffic and their shares, without a canary for selected callers."""
    canary = route.canary_in_traffic
    if route.active is None:
        return []
    if canary is None or canary.only_for:
        return [(route.active, 1.0)]
    return [(route.active, 1.0 - canary.weight_ratio), (canary.served, canary.weight_ratio)]


def _deployments(model: str, shares: list[tuple[ServedTarget, float]]) -> list[dict[str, Any]]:
    return [
        {"model_name": model, "litellm_params": _parameters(served, address, round(share / len(served.endpoints), 6))}
        for served, share in shares
        for address in served.endpoints
    ]


def _parameters(served: ServedTarget, address: str, weight: float) -> dict[str, Any]:
    parts = urlsplit(address)
    base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}/v1"
    key = f"os.environ/{parts.username}" if parts.username else "none"
    return {"model": f"openai/{served.target.triton_name}", "api_base": base, "api_key": key, "weight": weight}


def _weights(model: str, shares: list[tuple[ServedTarget, float]]) -> dict[str, Any]:
    clusters = [{"name": served.target.triton_name, "weight": round(_TOTAL * share)} for served, share in shares]
    route = {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "0s"}}
    return {
        "@type": _ROUTES,
        "name": model,
        "virtual_hosts": [{"name": model, "domains": ["*"], "routes": [route]}],
    }


def _cluster(name: str, served: ServedTarget) -> dict[str, Any]:
    parts = [urlsplit(address) for address in served.endpoints]
    sockets = [
        {"address": each.hostname, "port_value": each.port or (443 if each.scheme == "https" else 80)} for each in parts
    ]
    endpoints = [{"endpoint": {"address": {"socket_address": socket}}} for socket in sockets]
    cluster = {
        "@type": _CLUSTER,
        "name": name,
        "type": "STRICT_DNS",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if any(each.scheme == "https" for each in parts):
        tls = {"@type": _TLS, "sni": parts[0].hostname}
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return cluster
