"""The models and keys of a team. Pure."""

from collections.abc import Iterable

from contracts.identities import Identity
from contracts.teams import Team
from contracts.vocabulary import ModelName


def models_of(name: str, teams: Iterable[Team]) -> tuple[ModelName, ...]:
    """Return the models of a team; empty for an unknown team."""
    return next((team.models for team in teams if team.name == name), ())


def owner_of(model: ModelName, teams: Iterable[Team]) -> Team | None:
    """Return the team that owns a model; None if no team does."""
    return next((team for team in teams if model in team.models), None)


def find_problem(name: str, models: Iterable[ModelName], teams: Iterable[Team]) -> str | None:
    """Return a sentence on why a key of a team may not open models; None if it may."""
    known = tuple(teams)
    if all(team.name != name for team in known):
        return f"There is no team {name}: make it with `slipway keys team set {name} --model MODEL`."
    own = models_of(name, known)
    foreign = [model for model in models if model not in own]
    return f"{', '.join(foreign)} does not belong to {name}: see `slipway keys team list`." if foreign else None


def narrowed(identity: Identity, teams: Iterable[Team]) -> Identity:
    """Return an identity limited to its team's current models, or to its own list of these.

    Without a team it is returned unchanged; with an unknown team it may act on no model.
    """
    if identity.team is None:
        return identity
    own = models_of(identity.team, teams)
    named = [model for model in own if not identity.models or model in identity.models]
    return identity.model_copy(update={"models": tuple(named)})


def with_members(team: Team, identities: Iterable[Identity]) -> Team:
    """Return a team with its members and the identities without a team."""
    users = [identity for identity in identities if identity.roles]
    members = tuple(identity.name for identity in users if identity.team == team.name)
    unrestricted = tuple(identity.name for identity in users if identity.team is None)
    return team.model_copy(update={"members": members, "unrestricted": unrestricted})


def find_foreign(sender: str, model: ModelName, teams: Iterable[Team]) -> str | None:
    """Return a sentence on why a sender may not act on a model; None if it may.

    Members and known identities without a team may act on the models of a team; all but members of teams may act on
    other models.
    """
    known = tuple(teams)
    owner = owner_of(model, known)
    if owner is not None:
        if sender in (*owner.members, *owner.unrestricted):
            return None
        return f"{model} belongs to team {owner.name}, and {sender or 'the sender'} is no member of it."
    team = next((team.name for team in known if sender in team.members), None)
    if team is None:
        return None
    return f"{model} belongs to no team, and {sender} acts on the models of team {team} only."
