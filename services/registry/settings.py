"""Settings of the registry."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.manifests import LockMode
from shared.runtime.settings import SourceSettings


class RegistrySettings(BaseSettings):
    """Prefix `REGISTRY_`."""

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", frozen=True, extra="ignore")

    sweep_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at deadlines, outboxes and queues."""

    audit_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at what the audit log lacks."""

    admission_try_s: float = Field(default=30.0, gt=0)
    """Seconds that one try to admit a checkpoint may take; then it is postponed."""

    admission_wait_s: float = Field(default=2.0, gt=0)
    """Seconds that other models' announcements wait for one that is being admitted."""

    work_per_team: int = Field(default=4, ge=1)
    """Releases of one team that merger, quantiser and benchmarker have at the same time, if there are teams.

    The team's further checkpoints wait for admission, and its registered releases to be staged. Not below the number of
    replicas of a worker."""

    record_wait_s: float = Field(default=60.0, gt=0)
    """Seconds that announcements of all models wait for one model's record that cannot be read or written."""

    lock_mode: LockMode = "governance"
    """Mode of the locks of the audit log. `governance`: a right of its own lifts one, which no identity of Slipway has.
    `compliance`: nothing does before its end, not even the store's administrator."""

    lock_audit_days: float = Field(default=365.0, gt=0, le=3650)
    """Days that a segment of the audit log is kept from when it is written; not renewed."""

    upload_endpoint: str | None = None
    """Host and port at which publishers reach the store (TLS); without it, `SLIPWAY_S3_ENDPOINT`. URLs for uploads are
    signed for it, so a proxy before the store must pass on the Host header."""

    upload_url_s: int = Field(default=900, ge=10, le=7 * 24 * 3600)
    """Seconds for which the URL of one upload counts: of a file of up to 64 MiB, or a part of that size."""

    sources: SourceSettings = Field(default_factory=SourceSettings)
    """Where weights may come from besides the store: `SLIPWAY_FILE_ROOTS`, `SLIPWAY_HF_ENDPOINT`."""
