"""Settings of the benchmarker."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class BenchmarkerSettings(BaseSettings):
    """Read from the environment once (prefix `BENCHMARKER_`)."""

    model_config = SettingsConfigDict(env_prefix="BENCHMARKER_", frozen=True, extra="ignore", env_ignore_empty=True)

    serving_hardware: str = ""
    """Name of the serving fleet's hardware; empty if it serves from the machine of this service."""
    machine_price_per_hour: Annotated[float, Field(gt=0.0)] | None = None
    """Price of the serving machine for an hour, in any currency: with it, reports say what a million tokens cost."""
    progress_interval_s: Annotated[float, Field(ge=0.0)] = 0.5
    """Least time between two reports of live progress."""
    give_up_after_s: Annotated[float, Field(gt=0.0)] = 900.0
    """How long a measurement is repeated, since its first try, if the baseline's engine is lost; then inconclusive."""
