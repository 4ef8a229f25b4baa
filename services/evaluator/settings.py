"""Settings of the evaluator."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EvaluatorSettings(BaseSettings):
    """Read from the environment once (prefix `EVALUATOR_`)."""

    model_config = SettingsConfigDict(env_prefix="EVALUATOR_", frozen=True, extra="ignore")

    rows_at_once: Annotated[int, Field(ge=1, le=256)] = 4
    """Rows that are asked of both versions at the same time."""
    answer_timeout_s: Annotated[float, Field(gt=0.0)] = 120.0
    """Longest time of an answer, beside 0.25 s for each token that it may have."""
    give_up_after_s: Annotated[float, Field(gt=0.0)] = 900.0
    """How long an evaluation is repeated, since an engine was first lost, before it fails."""
    progress_interval_s: Annotated[float, Field(ge=0.0)] = 0.5
    """Least time between two reports of live progress."""
