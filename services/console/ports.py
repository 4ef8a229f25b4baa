"""The console's ports: what it needs from store, gateway and bus."""

from typing import Any, Protocol

from contracts.envelope import Event
from contracts.facts import Fact
from contracts.routes import Route
from decisions.serving.runtimes import ListedFleet
from services.console.domain.playground import Answer
from services.console.domain.version_screen import Proofs


class Artifacts(Protocol):
    """Proofs of versions and reports of alerts in the store. Synchronous: call in a thread."""

    def prove(self, model: str, version: int) -> Proofs:
        """Verify a version's lineage, without reading weights; return the findings and the model card.

        Raises:
            Permanent: The version is not registered, or no attesters' keys can be read.
            Transient: The store does not answer.
        """

    def report(self, uri: str) -> bytes | None:
        """Return the HTML report in an alert's evidence; None if there is none.

        Raises:
            Permanent: The stored bytes do not match their digest, or the report is too large.
            Transient: The store does not answer.
        """


class Gateway(Protocol):
    """Access to the gateway with a person's API key."""

    async def ask(self, key: str, model: str, version: int, prompt: str, max_tokens: int) -> Answer:
        """Return a version's answer to a prompt; an error becomes the answer's `problem`."""


class Orders(Protocol):
    """Publishes orders with the ordering person's credential."""

    async def publish(self, person: str, model: str, fact: Fact, release_id: str | None) -> Event[Any]:
        """Publish an order with the person's credential; return its event.

        Raises:
            Permanent: The order is too large, or the person's credential is missing or refused.
            Transient: The bus does not answer.
        """


class Fleets(Protocol):
    """The endpoints of the serving fleets."""

    async def read(self) -> tuple[ListedFleet, ...]:
        """Return the fleets by name as server-managers last stored them, and whether each still reports.

        Raises:
            Transient: The bus does not answer.
        """


class Routes(Protocol):
    """Current production routes."""

    async def get(self, model: str) -> Route | None:
        """Return a model's route; None if there is none.

        Raises:
            Transient: The bus does not answer.
        """
