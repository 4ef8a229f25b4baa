"""What a record has decided to say and perhaps not said yet (design, section 5, rule 3)."""

from typing import Any

from .facts import Fact
from .vocabulary import Contract, Environment, Instant


class Outgoing(Contract):
    """A fact that is decided and perhaps not published yet; its id follows from cause, type and key."""

    key: str
    type: str
    data: dict[str, Any]
    cause_id: str
    correlation_id: str
    decided_at: Instant
    environment: Environment | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells it from every other fact."""
        return self.cause_id, self.type, self.key


def outgoing(
    fact: Fact, *, key: str, cause_id: str, correlation_id: str, at: Instant, environment: Environment | None = None
) -> Outgoing:
    """Put a fact into the form in which records keep it; without an environment it is said in the record's own."""
    return Outgoing(
        key=key,
        type=fact.TYPE,
        data=fact.model_dump(mode="json", by_alias=True),
        cause_id=cause_id,
        correlation_id=correlation_id,
        decided_at=at,
        environment=environment,
    )


class OutboxRecord(Contract):
    """A record of one model in one environment, with what it has still to say."""

    model: str
    environment: Environment
    outbox: tuple[Outgoing, ...] = ()
