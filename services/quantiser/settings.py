"""Settings of the quantiser."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.quantiser.domain import AwqEngine, Dtype


class QuantiserSettings(BaseSettings):
    """Read from the environment once (prefix `QUANTISER_`)."""

    model_config = SettingsConfigDict(env_prefix="QUANTISER_", frozen=True, extra="ignore")

    serving_dtype: Dtype = "bfloat16"
    """What the serving hardware computes in; float16 only for accelerators without bfloat16."""
    awq_engine: AwqEngine = "autoawq"
    """Who makes `awq-int4`; what AutoAWQ does not know, llmcompressor makes."""
    smoothing_strength: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    min_calibration_tokens: Annotated[int, Field(ge=1)] = 1024
    held_out_windows: Annotated[int, Field(ge=1)] = 8
    held_out_tokens: Annotated[int, Field(ge=16)] = 512
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of torch; all cores when absent."""
    memory_limit_bytes: Annotated[int, Field(gt=0)] | None = None
    """Most private memory that the quantising process may map; that of machine or control group when absent."""
    timeout_s: Annotated[float, Field(gt=0.0)] = 14_400.0
    progress_interval_s: Annotated[float, Field(ge=0.0)] = 0.5
