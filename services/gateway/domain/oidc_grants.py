"""What the bearer of an identity provider's token may do: which grant its claims match, as the record of a key."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from contracts.api_keys import ApiKey, KeyLimits
from contracts.teams import TeamName
from contracts.vocabulary import IDENTITY_PATTERN, Contract, Environment, ModelName, digest_of

_NAME: Final = "oidc"


class Grant(Contract):
    """What tokens with a claim may do.

    Attributes:
        claim: Name of the claim: of a text, or of a list of texts, such as groups.
        value: Text that it must be or contain; None for any.
        models: Models that it opens; empty for all, or all of the team.
        team: Team whose models it opens at most, and whose budget its requests count in; None for none.
        team_claim: Name of the claim that names the team instead; a token that names none, or several, does not match.
        teams: Team by text of that claim; without it the text is the team's name.
        environments: Where it counts.
        limits: What each subject may ask for.
    """

    claim: Annotated[str, Field(min_length=1, max_length=200)] = "sub"
    value: Annotated[str, Field(max_length=500)] | None = None
    models: tuple[ModelName, ...] = ()
    team: TeamName | None = None
    team_claim: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    teams: dict[str, TeamName] = Field(default_factory=dict, max_length=1000)
    environments: Annotated[tuple[Environment, ...], Field(min_length=1)] = ("production",)
    limits: KeyLimits = KeyLimits()

    @model_validator(mode="after")
    def _names_one_team(self) -> Self:
        if self.team is not None and self.team_claim is not None:
            msg = "a grant has a team or a team_claim, not both"
            raise ValueError(msg)
        if self.teams and self.team_claim is None:
            msg = "teams of a grant say what the texts of its team_claim mean: name the claim in team_claim"
            raise ValueError(msg)
        return self


def matches(grant: Grant, claims: Mapping[str, Any]) -> bool:
    """Return whether a token's claims match a grant; a claim of another form matches nothing."""
    texts = _texts(claims, grant.claim)
    matched = bool(texts) if grant.value is None else grant.value in texts
    return matched and (grant.team_claim is None or team_of(grant, claims) is not None)


def team_of(grant: Grant, claims: Mapping[str, Any]) -> TeamName | None:
    """Return the team that a token belongs to by a grant; None for none."""
    if grant.team_claim is None:
        return grant.team
    texts = _texts(claims, grant.team_claim)
    named = {grant.teams[text] for text in texts if text in grant.teams} if grant.teams else set(texts)
    team = named.pop() if len(named) == 1 else ""
    return team if re.fullmatch(IDENTITY_PATTERN, team) else None


def _texts(claims: Mapping[str, Any], name: str) -> list[str]:
    value = claims.get(name)
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in values if isinstance(text, str)]


def account_of(issuer: str, subject: str) -> str:
    """Return under which name the usage of a subject is counted: it reveals neither of them."""
    return f"{_NAME}-{hashlib.sha256(f'{len(issuer)}:{issuer}{subject}'.encode()).hexdigest()[:40]}"


def record_of(grants: Sequence[Grant], claims: Mapping[str, Any]) -> ApiKey | None:
    """Return what a verified token may do, as the record of a key: by the first grant that it matches; None by none."""
    grant = next((grant for grant in grants if matches(grant, claims)), None)
    if grant is None:
        return None
    account = account_of(str(claims["iss"]), str(claims["sub"]))
    return ApiKey(
        key_id=account.removeprefix(f"{_NAME}-")[:12],
        name=_NAME,
        secret_digest=digest_of(b""),
        models=grant.models,
        team=team_of(grant, claims),
        environments=grant.environments,
        limits=grant.limits,
        issued_at=datetime(1970, 1, 1, tzinfo=UTC),
        issued_by=_NAME,
    )
