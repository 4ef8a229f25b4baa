"""Publishes orders with the ordering person's own credential.

An identity may publish only subjects that end with its own name (docs/adr/0019). The console therefore opens a bus
connection as that person for each order.
"""

import asyncio
from typing import Any, Final

import nats.errors

from contracts.envelope import Event
from contracts.facts import Fact
from contracts.limits import too_large
from contracts.routes import Route
from services.console.adapters.people import People
from shared.errors import Permanent, Transient
from shared.messaging.bus import Bus
from shared.messaging.credentials import connect, identify
from shared.messaging.orders import new_order
from shared.messaging.publishing import publish_event
from shared.messaging.refusals import Refusals
from shared.runtime.clock import Clock
from shared.runtime.settings import Connection
from shared.storage.kv import Bucket

CONNECT_S: Final = 5
ROUTE_S: Final = 3.0
"""Seconds to read a route for a page."""


class PersonalOrders:
    """Publishes each order on a connection of the ordering person.

    Args:
        connection: Connection settings of the bus.
        people: Finds each person's credential.
        clock: Clock for the time of an order.
    """

    def __init__(self, connection: Connection, people: People, clock: Clock) -> None:
        self._connection, self._people, self._clock = connection, people, clock

    async def publish(self, person: str, model: str, fact: Fact, release_id: str | None) -> Event[Any]:
        """Publish an order with the person's credential; return its event.

        Raises:
            Permanent: The order is too large, or the person's credential is missing or refused.
            Transient: The bus does not answer.
        """
        excess = too_large(fact)
        if excess is not None:
            raise Permanent("too_large", excess.reason)
        connection = self._connection_of(person)
        refusals: list[str] = []
        errors = Refusals(person, refusals.append)
        order = new_order(person, model, fact, now=self._clock.now(), release_id=release_id)
        try:
            client = await connect(
                connection,
                connect_timeout=CONNECT_S,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                error_cb=errors.note,
            )
        except (OSError, TimeoutError, nats.errors.Error) as error:
            raise _refused(person, error) from error
        errors.guard(client)
        try:
            await publish_event(client.jetstream(timeout=CONNECT_S), order)
        except Transient as error:
            raise (Permanent("sender_mismatch", f"{refusals[0]}.") if refusals else error) from error
        finally:
            await asyncio.shield(client.close())
        return order

    def _connection_of(self, person: str) -> Connection:
        """Return the connection settings of a person.

        Raises:
            Permanent: The console has no credential of the person, or its file belongs to another identity.
        """
        file = self._people.credential(person)
        if file is None:
            raise Permanent("sender_mismatch", f"The console has no credential of {person}: use `slipway` instead.")
        connection = self._connection.model_copy(update={"nats_credentials": file})
        try:
            name = identify(connection).name
        except ValueError as error:
            raise Permanent("sender_mismatch", str(error)) from error
        if name != person:
            raise Permanent("sender_mismatch", f"The file for {person} holds a credential of {name}.")
        return connection


def _refused(person: str, error: Exception) -> Permanent | Transient:
    if "authorization" in str(error).lower():
        reason = f"The bus does not accept the credential of {person} any more: replace it with `slipway keys rotate`."
        return Permanent("sender_mismatch", reason)
    return Transient("bus_unavailable", f"The bus does not answer ({error!r}); nothing was ordered. Try again.")


class BusRoutes:
    """Reads production routes from their bucket."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def get(self, model: str) -> Route | None:
        """Return a model's route; None if there is none.

        Raises:
            Transient: The bus does not answer within `ROUTE_S` seconds, or the record cannot be read.
        """
        try:
            async with asyncio.timeout(ROUTE_S):
                entry = await Bucket(self._bus.js, "routes", Route).get(model)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            reason = f"The bus does not answer: the route of {model} cannot be read ({error!r}). Try again."
            raise Transient("bus_unavailable", reason) from error
        return entry.value if entry is not None else None
