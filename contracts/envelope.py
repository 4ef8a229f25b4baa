"""The CloudEvents 1.0 envelope that every fact travels in (structured JSON mode)."""

import uuid
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field

from .facts import Fact
from .vocabulary import Contract, Environment, Instant, ModelName

CONTENT_TYPE = "application/cloudevents+json"
ID_NAMESPACE = uuid.UUID("8f2b6f0e-7f2e-5c1c-9a4e-51b17a9de0c1")

F = TypeVar("F", bound=Fact)
Identifier = Annotated[str, Field(min_length=1, max_length=256)]
"""Bounded, so that what follows from a fact always fits into a message as well."""


class Event(Contract, Generic[F]):
    """A fact with who said it, about which model, when and because of what.

    `id` is the message's `Nats-Msg-Id`. `correlationid` is the release (for training's own event: the run).
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
    data: F

    @property
    def nats_subject(self) -> str:
        """Subject that this event is published on."""
        return nats_subject(self.type, self.subject, self.environment)


def nats_subject(type_: str, model: str, environment: str = "production") -> str:
    """Return the NATS subject of a fact: `slipway.[staging.]<name>.v<n>.<model>`."""
    if environment == "staging":
        type_ = type_.replace("slipway.", "slipway.staging.", 1)
    return f"{type_}.{model}"


def derived_id(cause_id: str, type_: str, key: str = "") -> str:
    """Return the id of a fact that follows from another: the same cause always yields the same id."""
    return str(uuid.uuid5(ID_NAMESPACE, f"{cause_id}|{type_}|{key}"))


def plain(event: Event[Any]) -> dict[str, Any]:
    """Return an event as JSON data, absent extensions left out (CloudEvents forbids null attributes)."""
    body: dict[str, Any] = event.model_dump(mode="json", by_alias=True)
    return {key: value for key, value in body.items() if value is not None}
