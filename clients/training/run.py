"""A training run, and a checkpoint of it that was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from contracts.facts import CheckpointReady, EvalResult, ReleaseOpened
from contracts.policy import ReleasePolicy
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
    """A published checkpoint; `duplicate` if the bus had stored the same event before."""

    event_id: str
    model: str
    weights: ArtifactRef
    duplicate: bool
    announced: CheckpointReady | None = None

    def is_released_by(self, opened: ReleaseOpened) -> bool:
        """Return whether a release is of this checkpoint, by its event or by its inputs.

        A resumed run announces the same release by another event, with another end and other evaluations.
        """
        ready = self.announced
        if opened.source_event_id == self.event_id or ready is None or opened.returns is not None:
            return opened.source_event_id == self.event_id
        return _inputs(ready, ready.policy or opened.policy) == _inputs(opened, opened.policy)


def _inputs(facts: CheckpointReady | ReleaseOpened, policy: ReleasePolicy) -> tuple[Any, ...]:
    """Return the inputs of the registry's release id: those of its key, and the attempt."""
    sets = (ref and ref.digest for ref in (facts.calibration, facts.evaluation))
    training = facts.training.model_dump(mode="json", exclude={"finished_at"})
    serving = facts.serving.model_dump(mode="json", exclude_none=True) if facts.serving is not None else {}
    weights = (facts.weights.kind, facts.weights.ref.digest)
    named = (facts.model, facts.attempt, facts.base.digest, {*facts.variants})
    return *named, *weights, *sets, training, policy, serving
