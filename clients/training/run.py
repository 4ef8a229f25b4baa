"""A training run, and a checkpoint of it that was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from contracts.facts import CheckpointReady, EvalResult
from contracts.vocabulary import ArtifactRef


@dataclass(frozen=True)
class Run:
    """A training run as the training system describes it.

    Attributes:
        data_hash: Digest of the training data, `sha256:<hex>`.
        evals: Results of the run's own evaluations: name, metric, value, higher_is_better.
    """

    run_id: str
    data_hash: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    framework: str = ""
    finished_at: datetime | None = None
    evals: Sequence[EvalResult | Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Published:
    """A published checkpoint, as it was announced; `duplicate` if the bus had stored the same event before."""

    event_id: str
    model: str
    weights: ArtifactRef
    duplicate: bool
    announced: CheckpointReady | None = None
