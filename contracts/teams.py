"""Teams and their models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .vocabulary import Contract, IdentityName, ModelName


class TeamQuota(Contract):
    """The limits of a team's use; None for no limit.

    Attributes:
        releases: Releases of its models that are under way at the same time.
        announcements_per_minute: Checkpoints of its models that are accepted within a minute. The registry keeps the
            time of each.
        stored_bytes: Bytes in the store of its models: checkpoints, and merged models and variants of versions.
        tokens_per_month: Tokens of prompts and answers in each calendar month (UTC), of all of its keys of the API.
    """

    releases: Annotated[int, Field(ge=1)] | None = None
    announcements_per_minute: Annotated[int, Field(ge=1, le=240)] | None = None
    stored_bytes: Annotated[int, Field(ge=1, le=10**18)] | None = None
    tokens_per_month: Annotated[int, Field(ge=1, le=10**12)] | None = None


class Team(Contract):
    """A team with the models that it owns; a model belongs to one team at most.

    Attributes:
        models: The models that it owns.
        members: Identities on the bus that belong to it.
        unrestricted: Identities on the bus that belong to no team, and act on all models.
        quota: What it may use at most.
    """

    name: IdentityName
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    members: tuple[IdentityName, ...] = ()
    unrestricted: tuple[IdentityName, ...] = ()
    quota: TeamQuota = TeamQuota()
