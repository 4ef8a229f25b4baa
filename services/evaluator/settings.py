"""Settings of the evaluator."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EvaluatorSettings(BaseSettings):
    """Settings with the prefix `EVALUATOR_`."""

    model_config = SettingsConfigDict(env_prefix="EVALUATOR_", frozen=True, extra="ignore")

    rows_at_once: Annotated[int, Field(ge=1, le=256)] = 4
    """Rows sent at the same time to both versions."""
    answer_timeout_s: Annotated[float, Field(gt=0.0)] = 120.0
    """Timeout of an answer in seconds, plus 0.25 s per allowed token."""
    give_up_after_s: Annotated[float, Field(gt=0.0)] = 900.0
    """Seconds that an evaluation is repeated after an engine was first lost, before it fails."""
    progress_interval_s: Annotated[float, Field(ge=0.0)] = 0.5
    """Minimum seconds between progress reports."""
