"""Where the bus, the store and the process's own folders are; read from the environment once, in main."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Connection(BaseSettings):
    """Settings that every service has (prefix `SLIPWAY_`)."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_", frozen=True, extra="ignore")

    nats_url: str = "nats://127.0.0.1:4222"
    s3_endpoint: str = "127.0.0.1:8333"
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    s3_bucket: str = "slipway"
    s3_secure: bool = False
    http_host: str = "127.0.0.1"
    http_port: int = 0
    state_dir: Path = Path(".state")
    log_level: str = "INFO"
    trace_file: Path | None = None
    replicas: int = 1
    events_max_bytes: int | None = Field(default=None, ge=1024 * 1024)
    """Most bytes of the log of facts, where 8 GiB do not fit; raises the limit of an existing log, never lowers it."""
    failpoint: str = ""

    def work_dir(self, service: str) -> Path:
        """Return the folder that a service may write to, made if need be."""
        folder = self.state_dir / "work" / service
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class SourceSettings(BaseSettings):
    """Which folders outside the store may be read (prefix `SLIPWAY_`); none by default."""

    model_config = SettingsConfigDict(
        env_prefix="SLIPWAY_", frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    file_roots: tuple[Path, ...] = ()
    """Folders (a JSON list) that `file://` sources may lie in."""
    source_max_bytes: int = Field(default=1024**4, ge=1)
    """Most bytes of one folder, outside the store or in it, that is taken as a checkpoint."""
    source_max_files: int = Field(default=1000, ge=1)
    """Most files of such a folder."""
    hf_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/\s]+")
    """Model hub that `hf://` sources are read from, such as https://huggingface.co or a mirror of it."""
    hf_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")
    """Credential for private repositories; read from `HF_TOKEN`, sent to the hub and to nobody else."""
