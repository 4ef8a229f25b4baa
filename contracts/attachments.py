"""Attached servers of the OpenAI API that a model is released into; Slipway does not start or stop them."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from .vocabulary import ModelName, StoredRecord

MAX_REPLICAS: Final = 32
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
KEY_NAME: Final = r"[A-Z][A-Z0-9_]{0,31}"
HOST: Final = r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.\-]{1,253})(:[0-9]{1,5})?"
ServerUrl = Annotated[str, StringConstraints(pattern=rf"^https?://({KEY_NAME}@)?{HOST}(/[A-Za-z0-9._~/-]*)?$")]
"""Base URL of a server without `/v1`; the part before `@` names the API key that it requires."""
AdapterFolder = Annotated[
    str, StringConstraints(pattern=r"^(/[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*)+$", max_length=300)
]


class Attachment(StoredRecord):
    """The attached servers of a model; its key in the bucket `attachments` is the model's name.

    Attributes:
        groups: Replica URLs by group. All replicas of a group serve the same version under its name
            (`support-bot.v7.bf16`). Two groups alternate: one serves while the other gets the next version.
        adapters: Folder with adapters, mounted under this path at server-manager and every replica; versions are loaded
            from it into the base model. None: the team deploys each version itself.
    """

    model: ModelName
    groups: Annotated[
        dict[GroupName, Annotated[tuple[ServerUrl, ...], Field(min_length=1, max_length=MAX_REPLICAS)]],
        Field(min_length=1, max_length=2),
    ]
    adapters: Annotated[AdapterFolder | None, Field(exclude_if=lambda folder: folder is None)] = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the URLs of all replicas, ordered by group."""
        return tuple(url for urls in self.groups.values() for url in urls)

    @model_validator(mode="after")
    def _names_each_once(self) -> Attachment:
        if len({url.partition("://")[2].rpartition("@")[2] for url in self.urls}) < len(self.urls):
            raise ValueError("an address is named twice: each is one replica, of one group")
        ends = [url for url in self.urls if url.endswith(("/", "/v1"))]
        if ends:
            raise ValueError(f"{ends[0]} ends with / or /v1: leave that out, the paths of the API are added")
        broken = [url for url in self.urls if not self._has_host(url)]
        if broken:
            raise ValueError(
                f"{broken[0]} has no host and port: a port is 1 to 65535, and an IPv6 address is in brackets"
            )
        return self

    @staticmethod
    def _has_host(url: str) -> bool:
        try:
            parts = urlsplit(url)
            port = parts.port
            if "[" in parts.netloc:
                IPv6Address(parts.hostname or "")
        except ValueError:
            return False
        else:
            return port != 0
