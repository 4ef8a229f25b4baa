"""Settings of the gateway."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class GatewaySettings(BaseSettings):
    """Read from the environment once (prefix `GATEWAY_`)."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="ignore")

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the port; every limit below is that of one worker."""
    api_keys: Path | None = None
    """File with the keys that the installation has from its start: `gateway/api-keys.json` of `slipway keys init`."""
    first_token_s: Seconds = 60.0
    inter_token_s: Seconds = 20.0
    answer_s: Seconds = 600.0
    drain_s: Annotated[int, Field(ge=0)] = 30
    max_in_flight: Annotated[int, Field(ge=1)] = 512
    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * 2**20
    body_s: Seconds = 30.0
    max_bodies: Annotated[int, Field(ge=1)] = 256
    max_bodies_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    header_s: Seconds = 10.0
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**10
    max_connections: Annotated[int, Field(ge=1)] = 4096
    write_s: Seconds = 30.0
    max_lag_bytes: Annotated[int, Field(ge=1024)] = 256 * 2**10
    features_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    telemetry_queue: Annotated[int, Field(ge=1)] = 20_000
    telemetry_batch: Annotated[int, Field(ge=1, le=2000)] = 500
    telemetry_interval_s: Seconds = 0.25
