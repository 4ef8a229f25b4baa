"""Mirrors as an installation declares them: which models a registry outside shows."""

from typing import Literal

from pydantic import model_validator

from .vocabulary import ModelName, StoredRecord

MirrorName = Literal["mlflow", "hub", "wandb"]


class Mirror(StoredRecord):
    """Which models are mirrored into a registry; its record in the bucket `mirrors` has the registry's name.

    A registry without a record shows every model. Addresses and secrets are settings of the mirror.

    Attributes:
        models: Only these; empty for all.
        without: All but these; only together with no `models`.
        paused: Nothing is written to the registry.
    """

    registry: MirrorName
    models: tuple[ModelName, ...] = ()
    without: tuple[ModelName, ...] = ()
    paused: bool = False

    @model_validator(mode="after")
    def _chooses_in_one_way(self) -> "Mirror":
        if self.models and self.without:
            raise ValueError(
                "models and without exclude each other: list the models that are mirrored, or those that are not"
            )
        return self

    def covers(self, model: str) -> bool:
        """Return whether a model is mirrored."""
        return not self.paused and model not in self.without and (not self.models or model in self.models)
