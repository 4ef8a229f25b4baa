"""Teams and their models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .vocabulary import Contract, IdentityName, ModelName


class TeamQuota(Contract):
    """The limits of a team; None for no limit.

    Attributes:
        releases: Open releases of its models.
        announcements_per_minute: Accepted checkpoints of its models.
        stored_bytes: Bytes of its models' checkpoints, merged models and variants in the store.
        tokens_per_month: Prompt and answer tokens of all its API keys in a calendar month (UTC).
    """

    releases: Annotated[int, Field(ge=1)] | None = None
    announcements_per_minute: Annotated[int, Field(ge=1, le=240)] | None = None
    stored_bytes: Annotated[int, Field(ge=1, le=10**18)] | None = None
    tokens_per_month: Annotated[int, Field(ge=1, le=10**12)] | None = None


class Team(Contract):
    """A team with its models; a model belongs to at most one team.

    Attributes:
        members: Identities of the team.
        unrestricted: Identities without a team; they may act on all models.
    """

    name: IdentityName
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    members: tuple[IdentityName, ...] = ()
    unrestricted: tuple[IdentityName, ...] = ()
    quota: TeamQuota = TeamQuota()
