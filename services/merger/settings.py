"""Settings of the merger."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.merger.domain import ParityLimits, SaveDtype
from shared.runtime.settings import SourceSettings, WorkerSettings

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class MergerSettings(WorkerSettings):
    """Read from the environment once (prefix `MERGER_`)."""

    model_config = SettingsConfigDict(env_prefix="MERGER_", frozen=True, extra="ignore")

    save_dtype: SaveDtype = "bfloat16"
    """Dtype that merged weights are rounded to, once, after merging in float32."""
    max_mean_kl: Annotated[float, Field(gt=0.0)] = 0.05
    """Highest mean divergence of the merged model from base and LoRA, in nats per token."""
    min_top1_agreement_ratio: Ratio = 0.85
    """Least share of positions at which both have the same likeliest token."""
    max_lost_ratio: Ratio = 0.25
    """Most of the LoRA's own effect, as mean KL, that the merge may lose."""
    sources: SourceSettings = Field(default_factory=SourceSettings)

    def parity_limits(self) -> ParityLimits:
        """Return the limits of parity as the domain takes them."""
        return ParityLimits(
            max_mean_kl=self.max_mean_kl,
            min_top1_agreement_ratio=self.min_top1_agreement_ratio,
            max_lost_ratio=self.max_lost_ratio,
        )
