"""Teams: who owns which models."""

from typing import Annotated

from pydantic import Field, StringConstraints

from .vocabulary import IDENTITY_PATTERN, Contract, ModelName

TeamName = Annotated[str, StringConstraints(pattern=IDENTITY_PATTERN)]


class Team(Contract):
    """A team with the models that it owns; a model belongs to one team at most."""

    name: TeamName
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
