"""Settings of the command line, read from the environment once."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.runtime.settings import REGION_PATTERN


class CliSettings(BaseSettings):
    """The address of the stack, where no option names it (prefix `SLIPWAY_`)."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_", frozen=True, extra="ignore")

    state: Path = Path(".state")
    """State folder of the embedded stack."""
    engine_env: Path | None = None
    """Python environment with Triton and vLLM, where it is not beside this one."""
    nats_url: str | None = None
    """Address of the bus; with it no state folder is read."""
    nats_credentials: Path | None = None
    """File with the secret of the person or program."""
    nats_ca: Path | None = None
    """Certificate (PEM) of the authority of the bus."""
    attesters: Path | None = None
    """File with the public keys of all attesters, for `slipway verify`."""
    s3_endpoint: str | None = None
    """Host and port of the object store, without a scheme: TLS is the only one."""
    s3_credentials: Path | None = None
    """File with this identity's key of the store: `credentials/NAME.s3` of `slipway keys`."""
    s3_ca: Path | None = None
    """Certificate (PEM) of the authority that the store's certificate is from; without it, the system's list counts."""
    s3_bucket: str = "slipway"
    """Bucket of all artifacts."""
    s3_region: str = Field(default="us-east-1", pattern=REGION_PATTERN)
    """Region that requests are signed for."""
    gateway_url: str | None = None
    """Address of the gateway, for `slipway ask`."""
    gateway_key: Path | None = None
    """File with an API key of the gateway, for `slipway ask`."""
    gateway_ca: Path | None = None
    """Certificate (PEM) of the authority of the gateway, where it speaks TLS."""
    console_url: str | None = None
    """Address of the console, for `slipway open`."""
    console_credentials: Path | None = None
    """Credential that `slipway open` signs in with; without it, that of SLIPWAY_NATS_CREDENTIALS."""
