"""Models of the kinds that no package in reach has: ExternalSecret and HTTPRoute, as far as the chart uses them.

Written after the API references of External Secrets (v1) and the Gateway API (v1). What they do not know is refused, also
where the API has more.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A part of an object; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}


class StoreReference(Strict):
    kind: Literal["SecretStore", "ClusterSecretStore"]
    name: str = Field(min_length=1)


class SecretTarget(Strict):
    name: str = Field(min_length=1)
    creationPolicy: Literal["Owner", "Orphan", "Merge", "None"]


class Extraction(Strict):
    key: str = Field(min_length=1)


class Source(Strict):
    extract: Extraction


class ExternalSecretSpec(Strict):
    refreshInterval: str = Field(pattern=r"^[0-9]+(s|m|h)$")
    secretStoreRef: StoreReference
    target: SecretTarget
    dataFrom: list[Source] = Field(min_length=1)


class ExternalSecret(Strict):
    apiVersion: Literal["external-secrets.io/v1"]
    kind: Literal["ExternalSecret"]
    metadata: Metadata
    spec: ExternalSecretSpec


class ParentReference(Strict):
    group: str = "gateway.networking.k8s.io"
    kind: str = "Gateway"
    name: str = Field(min_length=1)
    namespace: str | None = None
    sectionName: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)


class PathMatch(Strict):
    type: Literal["Exact", "PathPrefix", "RegularExpression"]
    value: str = Field(pattern="^/")


class Match(Strict):
    path: PathMatch


class Backend(Strict):
    name: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)


class Timeouts(Strict):
    request: str = Field(pattern=r"^([0-9]{1,5}(h|m|s|ms)){1,4}$")


class RouteRule(Strict):
    matches: list[Match] = Field(max_length=64)
    backendRefs: list[Backend] = Field(max_length=16)
    timeouts: Timeouts


class RouteSpec(Strict):
    parentRefs: list[ParentReference] = Field(min_length=1, max_length=32)
    hostnames: list[str] = Field(default=[], max_length=16)
    rules: list[RouteRule] = Field(max_length=16)


class HTTPRoute(Strict):
    apiVersion: Literal["gateway.networking.k8s.io/v1"]
    kind: Literal["HTTPRoute"]
    metadata: Metadata
    spec: RouteSpec


OWN: dict[tuple[str, str], Any] = {
    ("external-secrets.io/v1", "ExternalSecret"): ExternalSecret,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTPRoute,
}
