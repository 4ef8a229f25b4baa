"""What belongs to a team. Pure."""

from collections.abc import Iterable

from contracts.identities import Identity
from contracts.teams import Team
from contracts.vocabulary import ModelName


def models_of(name: str, teams: Iterable[Team]) -> tuple[ModelName, ...]:
    """Return the models of a team; none if there is no such team."""
    return next((team.models for team in teams if team.name == name), ())


def owner_of(model: ModelName, teams: Iterable[Team]) -> Team | None:
    """Return the team that owns a model; None if no team does."""
    return next((team for team in teams if model in team.models), None)


def narrowed(identity: Identity, teams: Iterable[Team]) -> Identity:
    """Return an identity with the models that it may act on now: those of its team, or fewer if it names some.

    An identity without a team is returned as it is. Of a team that does not exist, it may act on no model.
    """
    if identity.team is None:
        return identity
    own = models_of(identity.team, teams)
    named = [model for model in own if not identity.models or model in identity.models]
    return identity.model_copy(update={"models": tuple(named)})
