"""Settings of the merger."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.merger.domain import SaveDtype
from shared.runtime.settings import SourceSettings, WorkerSettings


class MergerSettings(WorkerSettings):
    """Settings with the prefix `MERGER_`."""

    model_config = SettingsConfigDict(env_prefix="MERGER_", frozen=True, extra="ignore")

    save_dtype: SaveDtype = "bfloat16"
    """Dtype to which merged weights are rounded once, after merging in float32."""
    sources: SourceSettings = Field(default_factory=SourceSettings)
