"""Models of the kinds that no package in reach has, as far as the chart and the examples use them.

Written after the API references of External Secrets (v1), the Gateway API (v1), and the types of KServe (v1beta1). What
they do not know is refused, also where the API has more.
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


class DeploymentStrategy(Strict):
    type: Literal["Recreate", "RollingUpdate"]


class Predictor(Strict):
    """Its containers and volumes are those of a pod, which is validated as one."""

    minReplicas: int = Field(ge=1)
    maxReplicas: int = Field(ge=1)
    deploymentStrategy: DeploymentStrategy
    containers: list[dict[str, Any]] = Field(min_length=1)
    volumes: list[dict[str, Any]] = []


class InferenceServiceSpec(Strict):
    predictor: Predictor


class NamedMetadata(Strict):
    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    annotations: dict[Literal["serving.kserve.io/deploymentMode"], Literal["RawDeployment"]]


class InferenceService(Strict):
    apiVersion: Literal["serving.kserve.io/v1beta1"]
    kind: Literal["InferenceService"]
    metadata: NamedMetadata
    spec: InferenceServiceSpec


OWN: dict[tuple[str, str], Any] = {
    ("external-secrets.io/v1", "ExternalSecret"): ExternalSecret,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTPRoute,
    ("serving.kserve.io/v1beta1", "InferenceService"): InferenceService,
}
