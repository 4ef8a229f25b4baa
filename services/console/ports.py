"""What the console needs from outside."""

from pathlib import Path
from typing import Any, Protocol

from contracts.envelope import Event
from contracts.facts import Fact
from contracts.routes import Route
from services.console.domain.people import Person


class Directory(Protocol):
    """The people who may sign in."""

    def find(self, name: str) -> Person | None:
        """Return a person; None if there is no person of that name any more."""

    def public_keys(self, name: str) -> tuple[str, ...]:
        """Return the keys of a person; none for a name that is unknown."""

    def credential(self, name: str) -> Path | None:
        """Return the file of a person's credential; None if the console has none of that person."""


class Orders(Protocol):
    """The bus, as the person who gives an order."""

    async def publish(self, person: str, model: str, fact: Fact, release_id: str | None) -> Event[Any]:
        """Publish an order with the person's own credential, and return its event.

        Raises:
            Permanent: The console has no credential of the person, or the bus does not accept it.
            Transient: The bus does not answer.
        """


class Routes(Protocol):
    """The routes of production, as they are now."""

    async def get(self, model: str) -> Route | None:
        """Return the route of a model; None if there is none."""
