"""Settings of the gateway."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class GatewaySettings(BaseSettings):
    """Read from the environment once (prefix `GATEWAY_`)."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="ignore")

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the port; every limit below applies per worker."""
    tls_certificate: Path | None = None
    """Certificate chain (PEM) for callers, read at startup. Without it, callers use plain HTTP."""
    tls_key: Path | None = None
    """Private key (PEM) of the certificate; set both or neither."""
    behind_proxy: bool = False
    """Whether a proxy terminates TLS, so that the gateway may serve plain HTTP on a non-loopback address."""
    admin_host: str = "127.0.0.1"
    """Listening address for probes and metrics."""
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    """Port for probes and metrics; requests need no key, and responses name models."""
    api_keys: Path | None = None
    """File with the installation's initial API keys: `gateway/api-keys.json`, written by `slipway keys init`."""
    first_token_s: Seconds = 60.0
    """Longest silence of a target before the first token."""
    inter_token_s: Seconds = 20.0
    """Longest silence of a target between tokens."""
    stall_s: Annotated[float, Field(ge=0)] = 2.0
    """Silence of a Triton's health check before its ejection, if another endpoint answers; 0: never."""
    answer_s: Seconds = 600.0
    """Time limit of a whole answer."""
    drain_s: Annotated[int, Field(ge=0)] = 30
    """Time limit for streams in flight after SIGTERM."""
    max_in_flight: Annotated[int, Field(ge=1)] = 512
    """Maximum concurrent requests per environment; further requests get a 429."""
    max_mirrors: Annotated[int, Field(ge=0)] = 4
    """Maximum pairs computed concurrently; four times as many may wait."""
    rescues_per_minute: Annotated[int, Field(ge=0)] = 120
    """Maximum requests per minute that the fallback answers after an engine failure; 0: none."""
    rescues_per_caller: Annotated[int, Field(ge=0)] = 20
    """The same limit per caller."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * 2**20
    """Largest body; a larger one gets a 413."""
    body_s: Seconds = 30.0
    """Time limit for receiving a body."""
    max_bodies_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Maximum bytes of all bodies being received; above it, a 429. An eighth is reserved for callers with few bytes."""
    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 75
    """How long an idle connection stays open: longer than proxies keep it, usually 60 s."""
    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Maximum open connections; above it, requests get a 503."""
    write_s: Seconds = 30.0
    """Longest time a caller may read nothing of its answer; then the answer is aborted."""
    max_lag_bytes: Annotated[int, Field(ge=1024)] = 256 * 2**10
    """Maximum unread bytes of an answer, per request."""
    features_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of answers with text features in telemetry; drills and staging always have them."""
    language_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of those answers with a detected language, for triggers on `other_language_ratio`."""
    telemetry_queue: Annotated[int, Field(ge=1)] = 20_000
    """Maximum telemetry records waiting for the bus; above it, the oldest is dropped."""
    telemetry_interval_s: Seconds = 0.25
    """Longest time a record waits for its batch to fill."""

    @model_validator(mode="after")
    def _check_transport(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            msg = "GATEWAY_TLS_CERTIFICATE and GATEWAY_TLS_KEY belong together: set both"
            raise ValueError(msg)
        return self
