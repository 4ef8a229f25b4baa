"""The catalogue of events: for each, who publishes and reads it, and where it is stored."""

from contracts.facts import FACTS, Fact
from contracts.services import FROM_OUTSIDE, SERVICES, stream_of
from deploy.documentation.field_notes import first_line
from deploy.documentation.markdown import code, escape, table


def render() -> str:
    """Return one row for each event."""
    return table(("event", "meaning", "stream", "published by", "read by"), map(_row, FACTS.values()))


def _row(fact: type[Fact]) -> tuple[str, str, str, str, str]:
    publishers = [service.name for service in SERVICES.values() if fact in service.emits]
    publishers += ["people and programs"] if fact in FROM_OUTSIDE else []
    readers = [service.name for service in SERVICES.values() if fact in service.consumes]
    stream = stream_of(fact)
    return (
        code(fact.TYPE),
        escape(first_line(fact)),
        code(stream) if stream else "not stored",
        ", ".join(publishers) or "every service",
        ", ".join(readers) or "observers only",
    )
