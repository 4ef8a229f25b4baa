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
"""Bounded, so that every fact that follows from another one fits into a message."""


class Event(Contract, Generic[F]):
    """A fact with its source, its model, its time and its cause.

    Attributes:
        id: Also the message's `Nats-Msg-Id`.
        correlationid: The release; in `checkpoint.ready` the training run.
        authtype: Kind of the credential that published the event (CloudEvents Auth Context): `user`,
            `service_account`, `unauthenticated`, …
        authid: The credential's user or service (CloudEvents Auth Context).
        team: The credential's team.

    The last three are the publisher's claim: no service sets or trusts them before the bus authenticates publishers
    (docs/adr/0010).
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
    authtype: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    authid: Identifier | None = None
    team: Annotated[str, Field(min_length=1, max_length=200)] | None = None
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
