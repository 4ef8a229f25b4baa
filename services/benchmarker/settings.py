"""Settings of the benchmarker."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class BenchmarkerSettings(BaseSettings):
    """Settings with the prefix `BENCHMARKER_`."""

    model_config = SettingsConfigDict(env_prefix="BENCHMARKER_", frozen=True, extra="ignore", env_ignore_empty=True)

    serving_hardware: str = ""
    """Name of the serving fleet's hardware; empty if this machine serves."""
    machine_price_per_hour: Annotated[float, Field(gt=0.0)] | None = None
    """Price of the serving machine per hour in any currency; with it, reports include the price of a million tokens."""
    progress_interval_s: Annotated[float, Field(ge=0.0)] = 0.5
    """Minimum seconds between progress reports."""
    give_up_after_s: Annotated[float, Field(gt=0.0)] = 900.0
    """Seconds after the first attempt for repeating a measurement that lost the baseline's engine; then
    inconclusive."""
