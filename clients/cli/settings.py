"""Settings of the command line, read from the environment once."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class CliSettings(BaseSettings):
    """The address of the stack, where no option names it (prefix `SLIPWAY_`)."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_", frozen=True, extra="ignore")

    state: Path = Path(".state")
    engine_env: Path | None = None
    nats_url: str | None = None
    nats_credentials: Path | None = None
    nats_ca: Path | None = None
    attesters: Path | None = None
    s3_endpoint: str | None = None
    s3_access_key: str = ""
    s3_secret_key: str = ""
    s3_bucket: str = "slipway"
    s3_secure: bool = False
    gateway_url: str | None = None
    gateway_key: Path | None = None
    triton_url: str | None = None
    user: str | None = None
