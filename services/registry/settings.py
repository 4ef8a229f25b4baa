"""Settings of the registry."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RegistrySettings(BaseSettings):
    """Prefix `REGISTRY_`; lists are JSON."""

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", frozen=True, extra="ignore")

    file_roots: tuple[Path, ...] = ()
    """Folders that `file://` artifacts may lie in; none by default."""
    sweep_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at deadlines, outboxes and queues."""
