"""Settings of the quantiser."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.quantiser.domain import AwqEngine, Device, Dtype, QuantiserDefaults
from shared.runtime.settings import WorkerSettings


class QuantiserSettings(WorkerSettings):
    """Settings with the prefix `QUANTISER_`."""

    model_config = SettingsConfigDict(env_prefix="QUANTISER_", frozen=True, extra="ignore")

    serving_dtype: Dtype = "bfloat16"
    """Dtype in which the serving hardware computes; float16 only for accelerators without bfloat16."""
    device: Device = "auto"
    """`auto`: use a GPU if there is one. `cpu`: use none, for example where an engine serves from it."""
    awq_engine: AwqEngine = "autoawq"
    """Engine of `awq-int4`; architectures that AutoAWQ does not support always use llmcompressor."""
    min_calibration_tokens: Annotated[int, Field(ge=1)] = 1024
    """Fewest tokens of a calibration set; below, the variant fails with `calibration_too_small`."""
    held_out_windows: Annotated[int, Field(ge=1)] = 8
    """Windows of held-out text for measuring quality."""
    held_out_tokens: Annotated[int, Field(ge=16)] = 512
    """Tokens per held-out window."""
    timeout_s: Annotated[float, Field(gt=0.0)] = 14_400.0

    def defaults(self) -> QuantiserDefaults:
        """Return the defaults for the domain."""
        return QuantiserDefaults(
            dtype=self.serving_dtype,
            awq_engine=self.awq_engine,
            min_calibration_tokens=self.min_calibration_tokens,
            held_out_windows=self.held_out_windows,
            held_out_tokens=self.held_out_tokens,
        )
