"""Settings of the registry."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.manifests import LockMode
from shared.runtime.settings import SourceSettings


class RegistrySettings(BaseSettings):
    """Settings with the prefix `REGISTRY_`."""

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", frozen=True, extra="ignore")

    sweep_s: float = Field(default=2.0, gt=0)
    """Seconds between sweeps of deadlines, outboxes and queues."""

    audit_s: float = Field(default=2.0, gt=0)
    """Seconds between sweeps for new audit log entries."""

    admission_try_s: float = Field(default=30.0, gt=0)
    """Seconds that one attempt to admit a checkpoint may take before it is postponed."""

    admission_wait_s: float = Field(default=2.0, gt=0)
    """Seconds that announcements of other models wait for a running admission."""

    work_per_team: int = Field(default=4, ge=1)
    """Releases of one team that merger, quantiser and benchmarker process at the same time, if there are teams. Further
    checkpoints of the team wait for admission, and its registered releases for staging. Use at least the number of
    replicas of a worker."""

    record_wait_s: float = Field(default=60.0, gt=0)
    """Seconds that announcements of all models wait for a model's record that cannot be read or written."""

    lock_mode: LockMode = "governance"
    """Mode of the audit log's object locks. `governance`: only a privilege that no identity of Slipway has lifts a
    lock. `compliance`: a lock holds until its end, even for the store's administrator."""

    lock_audit_days: float = Field(default=365.0, gt=0, le=3650)
    """Days that the lock keeps an audit log segment after it is written; not renewed."""

    upload_endpoint: str | None = None
    """Host and port at which publishers reach the store (TLS); default `SLIPWAY_S3_ENDPOINT`. Upload URLs are signed
    for it, so a proxy before the store must pass on the Host header."""

    upload_url_s: int = Field(default=900, ge=10, le=7 * 24 * 3600)
    """Seconds that an upload URL is valid, for a file or part of up to 64 MiB."""

    sources: SourceSettings = Field(default_factory=SourceSettings)
    """Sources of weights besides the store: `SLIPWAY_FILE_ROOTS`, `SLIPWAY_HF_ENDPOINT`."""
