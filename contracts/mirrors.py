"""Mirrors: the models that an external registry shows."""

from typing import Literal

from pydantic import model_validator

from .vocabulary import ModelName, StoredRecord

MirrorName = Literal["mlflow", "hub", "wandb"]


class Mirror(StoredRecord):
    """The models that are mirrored into a registry; the key in the bucket `mirrors` is the registry's name.

    A registry without a record shows all models. Addresses and secrets are settings of the service.

    Attributes:
        models: Models to mirror; empty for all.
        without: Models to leave out; excludes `models`.
        paused: Whether writing to the registry is paused.
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
