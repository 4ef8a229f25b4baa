"""The CloudEvents 1.0 envelope of every fact (structured JSON mode)."""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field

from .facts import Fact
from .vocabulary import IDENTITY_PATTERN, Contract, Environment, Instant, ModelName

CONTENT_TYPE = "application/cloudevents+json"
ID_NAMESPACE = uuid.UUID("8f2b6f0e-7f2e-5c1c-9a4e-51b17a9de0c1")

SOURCE_PREFIX = "/slipway/"

F = TypeVar("F", bound=Fact)
Identifier = Annotated[str, Field(min_length=1, max_length=256)]
"""Length is bounded: facts carry the ids of their causes."""


def short_type(full: str) -> str:
    """Return an event type without prefix and version: `release.opened`."""
    return full.removeprefix("slipway.").rsplit(".", 1)[0]


class Event(Contract, Generic[F]):
    """A fact with its source, its model, its time and its cause.

    Attributes:
        id: Also the message's `Nats-Msg-Id`.
        source: `/slipway/<identity>`: the identity that first published the event.
        correlationid: Id of the release; of the training run in `checkpoint.ready`.
        requeuedby: Administrator who published the event again from the dead letters.

    The NATS subject ends with the sender; the bus checks it (docs/adr/0019).
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)

    specversion: Literal["1.0"] = "1.0"
    id: Identifier
    source: Annotated[str, Field(min_length=1, max_length=512)]
    type: str
    subject: ModelName
    time: Instant
    datacontenttype: Literal["application/json"] = "application/json"
    correlationid: Identifier
    causationid: Identifier | None = None
    traceparent: Annotated[str, Field(max_length=256)] | None = None
    environment: Environment = "production"
    requeuedby: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    data: F

    @property
    def origin(self) -> str:
        """Return the identity in `source`; empty if `source` has another form."""
        return identity_in(self.source)

    @property
    def sender(self) -> str:
        """Return the identity that published this event; empty if the event names none."""
        return self.origin if self.requeuedby is None else identity_in(SOURCE_PREFIX + self.requeuedby)

    @property
    def nats_subject(self) -> str:
        """Return the NATS subject of this event."""
        return nats_subject(self.type, self.subject, self.sender, self.environment)


def source_of(identity: str) -> str:
    """Return the `source` of events that an identity publishes."""
    return f"{SOURCE_PREFIX}{identity}"


def identity_in(source: str) -> str:
    """Return the identity in a `source`; empty if it has another form."""
    name = source.removeprefix(SOURCE_PREFIX)
    return name if name != source and re.fullmatch(IDENTITY_PATTERN, name) else ""


def nats_subject(type_: str, model: str, sender: str, environment: str = "production") -> str:
    """Return the NATS subject of a fact: `slipway.[staging.]<name>.v<n>.<model>.<sender>`; `*` stands for any."""
    if environment == "staging":
        type_ = type_.replace("slipway.", "slipway.staging.", 1)
    return f"{type_}.{model}.{sender}"


def derived_id(cause_id: str, type_: str, key: str = "") -> str:
    """Return the id of a fact with a cause: a UUID that is the same for the same arguments."""
    return str(uuid.uuid5(ID_NAMESPACE, f"{cause_id}|{type_}|{key}"))


def plain(event: Event[Any]) -> dict[str, Any]:
    """Return an event as JSON data without absent extensions (CloudEvents forbids null attributes)."""
    body: dict[str, Any] = event.model_dump(mode="json", by_alias=True)
    return {key: value for key, value in body.items() if value is not None}
