"""Ports of the console."""

from typing import Any, Protocol

from contracts.envelope import Event
from contracts.facts import Fact
from contracts.routes import Route
from decisions.serving.runtimes import ListedFleet
from services.console.domain.playground import Answer
from services.console.domain.version_screen import Proofs


class Artifacts(Protocol):
    """Versions and alerts in the store. Synchronous: call it in a thread."""

    def prove(self, model: str, version: int) -> Proofs:
        """Return the findings about a version, and its model card; files of weights are not read.

        Raises:
            Permanent: The version is not what was registered.
            Transient: The store does not answer.
        """

    def report(self, uri: str) -> bytes | None:
        """Return the report (HTML) of the evidence of an alert; None if it has none.

        Raises:
            Transient: The store does not answer.
        """


class Gateway(Protocol):
    """The gateway, as the person whose key it is."""

    async def ask(self, key: str, model: str, version: int, prompt: str, max_tokens: int) -> Answer:
        """Return a version's answer to a prompt; an error becomes the answer's problem."""


class Orders(Protocol):
    """Publishes orders with the person's credential."""

    async def publish(self, person: str, model: str, fact: Fact, release_id: str | None) -> Event[Any]:
        """Publish an order with the person's own credential, and return its event.

        Raises:
            Permanent: The console has no credential of the person, or the bus does not accept it.
            Transient: The bus does not answer.
        """


class Fleets(Protocol):
    """The endpoints of the serving fleets."""

    async def read(self) -> tuple[ListedFleet, ...]:
        """Return the fleets by name, as server-managers last stored them, and whether these still report.

        Raises:
            Transient: The bus does not answer.
        """


class Routes(Protocol):
    """The current routes of production."""

    async def get(self, model: str) -> Route | None:
        """Return the route of a model; None if there is none.

        Raises:
            Transient: The bus does not answer.
        """
