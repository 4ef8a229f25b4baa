"""Servers of the OpenAI API that a model is released into; they exist, and nothing here starts or stops them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints, model_validator

from .stored import StoredRecord
from .vocabulary import ModelName

MAX_REPLICAS: Final = 32
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
KEY_NAME: Final = r"[A-Z][A-Z0-9_]{0,31}"
ServerUrl = Annotated[
    str,
    StringConstraints(pattern=rf"^https?://({KEY_NAME}@)?[A-Za-z0-9.\-\[\]:]{{1,253}}(/[A-Za-z0-9._~/-]*)?$"),
]
"""The address of a server, without the `/v1` of its paths; before `@` the name of the key that it asks for."""


class Attachment(StoredRecord):
    """Where a model is served; its record in the bucket `attachments` has the model's name.

    Attributes:
        groups: The addresses of each group, one a replica. All of a group serve the same version, under its name,
            `support-bot.v7.bf16`; two groups take turns: one serves while the other gets the next version.
    """

    model: ModelName
    groups: Annotated[
        dict[GroupName, Annotated[tuple[ServerUrl, ...], Field(min_length=1, max_length=MAX_REPLICAS)]],
        Field(min_length=1, max_length=2),
    ]

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address."""
        return tuple(url for urls in self.groups.values() for url in urls)

    @model_validator(mode="after")
    def _names_each_once(self) -> Attachment:
        if len({url.partition("://")[2].rpartition("@")[2] for url in self.urls}) < len(self.urls):
            msg = "an address is named twice: each is one replica, of one group"
            raise ValueError(msg)
        ends = [url for url in self.urls if url.endswith(("/", "/v1"))]
        if ends:
            msg = f"{ends[0]} ends with / or /v1: leave that out, the paths of the API are added"
            raise ValueError(msg)
        return self
