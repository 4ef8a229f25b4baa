"""Settings of the benchmarker."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class BenchmarkerSettings(BaseSettings):
    """Read from the environment once (prefix `BENCHMARKER_`)."""

    model_config = SettingsConfigDict(env_prefix="BENCHMARKER_", frozen=True, extra="ignore")

    serving_hardware: str = ""
    """Name of the serving fleet's hardware; empty when it serves from the machine that this service runs on."""
    progress_interval_s: Annotated[float, Field(ge=0.0)] = 0.5
    """Least time between two reports of live progress."""
    give_up_after_s: Annotated[float, Field(gt=0.0)] = 900.0
    """How long after staging a baseline that goes away is measured again; then the variant fails."""
