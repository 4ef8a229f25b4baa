"""Settings of the merger."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.merger.domain import SaveDtype

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class MergerSettings(BaseSettings):
    """Read from the environment once (prefix `MERGER_`)."""

    model_config = SettingsConfigDict(env_prefix="MERGER_", frozen=True, extra="ignore")

    save_dtype: SaveDtype = "bfloat16"
    """What merged weights are rounded to, once, after merging in float32."""
    max_mean_kl: Annotated[float, Field(gt=0.0)] = 0.05
    min_top1_agreement_ratio: Ratio = 0.85
    max_lost_ratio: Ratio = 0.25
    """Most of the LoRA's own effect, as mean KL, that the merge may lose."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of torch; all cores when absent."""
    memory_limit_bytes: Annotated[int, Field(gt=0)] | None = None
    """Most private memory that the merging process may map; that of machine or control group when absent."""
    timeout_s: Annotated[float, Field(gt=0.0)] = 3_600.0
    progress_interval_s: Annotated[float, Field(ge=0.0)] = 0.5
