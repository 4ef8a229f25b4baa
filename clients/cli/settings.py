"""Settings of the command line, read from the environment once."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class CliSettings(BaseSettings):
    """The address of the stack if no option names it (prefix `SLIPWAY_`)."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_", frozen=True, extra="ignore")

    state: Path = Path(".state")
    """State folder of the embedded stack."""
    engine_env: Path | None = None
    """Python environment with Triton and vLLM (default: `.venv-engine`)."""
    nats_url: str | None = None
    """Address of the bus; it replaces the state folder, with the other `SLIPWAY_NATS_*` and `SLIPWAY_S3_*`."""
    gateway_url: str | None = None
    """Address of the gateway, for `slipway ask`."""
    gateway_key: Path | None = None
    """File with an API key of the gateway, for `slipway ask`."""
    gateway_ca: Path | None = None
    """Certificate (PEM) of the authority of the gateway if it speaks TLS."""
    console_url: str | None = None
    """Address of the console, for `slipway open`."""
    console_credentials: Path | None = None
    """Credential that `slipway open` signs in with (default: SLIPWAY_NATS_CREDENTIALS)."""
