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
    """Processes that share the port; every limit below is that of one worker."""
    tls_certificate: Path | None = None
    """Certificate chain (PEM) for callers, read at the start. Without it, HTTP is plain."""
    tls_key: Path | None = None
    """Its private key (PEM); the two belong together."""
    behind_proxy: bool = False
    """Whether a proxy ends TLS before the gateway, which then speaks plain HTTP at an address that others reach."""
    admin_host: str = "127.0.0.1"
    """Address of the port of probes and metrics."""
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    """Where probes and scrapes are answered; no key is needed there, and the answers name models."""
    api_keys: Path | None = None
    """File with the keys that the installation has from its start: `gateway/api-keys.json` of `slipway keys init`."""
    first_token_s: Seconds = 60.0
    """Longest silence of a target before its first token."""
    inter_token_s: Seconds = 20.0
    """Longest silence of a target after it."""
    stall_s: Annotated[float, Field(ge=0)] = 2.0
    """Silence of a Triton's health check after which it is ejected, where another one answers; 0: never."""
    answer_s: Seconds = 600.0
    """Most time of a whole answer."""
    route_file: Path | None = None
    """JSON file of routes that are served as they are, and not the bus's: for an outage of the bus."""
    drain_s: Annotated[int, Field(ge=0)] = 30
    """Most time of streams in flight after SIGTERM."""
    max_in_flight: Annotated[int, Field(ge=1)] = 512
    """Requests that are answered at the same time, per environment; more is a 429."""
    max_mirrors: Annotated[int, Field(ge=0)] = 4
    """Drawn requests that two versions are asked again, at the same time; four times as many wait."""
    rescues_per_minute: Annotated[int, Field(ge=0)] = 120
    """Requests per minute that the fallback may answer because the engine failed them; 0 for none."""
    rescues_per_caller: Annotated[int, Field(ge=0)] = 20
    """The same, of one caller."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * 2**20
    """Largest body; more is a 413."""
    body_s: Seconds = 30.0
    """Most time in which a body arrives."""
    max_bodies_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Most bytes of all bodies that are arriving; more is a 429. An eighth is for callers that send little."""
    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 75
    """How long a connection stays open without a request: longer than proxies keep it, which mostly take 60 s."""
    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Open connections; above it requests are a 503."""
    write_s: Seconds = 30.0
    """Time in which a caller must read something of its answer; then the answer is given up, the connection stays."""
    max_lag_bytes: Annotated[int, Field(ge=1024)] = 256 * 2**10
    """Most bytes of an answer that wait for its caller."""
    features_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the answers whose texts are described; drills and staging always are."""
    language_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of these whose language is recognised, for triggers on `other_language_ratio`."""
    telemetry_queue: Annotated[int, Field(ge=1)] = 20_000
    """Telemetry records that wait for the bus; above it the oldest is dropped."""
    telemetry_interval_s: Seconds = 0.25
    """Longest wait of a record for others of its message."""

    @model_validator(mode="after")
    def _check_transport(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            msg = "GATEWAY_TLS_CERTIFICATE and GATEWAY_TLS_KEY belong together: set both"
            raise ValueError(msg)
        return self
