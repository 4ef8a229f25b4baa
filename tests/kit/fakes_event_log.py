"""The event log in memory."""

from datetime import UTC, datetime

from decisions.event_archive import LogState, body_of, message_of


class FakeEventLog:
    """The stream of events (implements `services.registry.event_archive.EventLog`).

    Attributes:
        bus_at: The time by the bus's clock.
        unread_from: The first number that a service has not read; None if all are read.
        unsent_from: The same of an optional service that has read before.
        limit_bytes: How many bytes it may hold; None for no limit.
        hidden: Numbers that are there, but are not returned from: a server that answers nothing after them.
    """

    def __init__(self, bus_at=None) -> None:
        self.messages, self.last = {}, 0
        self.bus_at = datetime.now(UTC) if bus_at is None else bus_at
        self.unread_from = self.unsent_from = self.limit_bytes = None
        self.hidden = set()

    def publish(self, subject, body, message_id=""):
        self.last += 1
        self.messages[self.last] = message_of(self.last, subject, self.bus_at, message_id, body)

    def remove(self, number):
        del self.messages[number]

    async def state(self):
        return LogState(
            first=min(self.messages, default=self.last + 1),
            last=self.last,
            messages=len(self.messages),
            bytes=sum(len(body_of(message)) for message in self.messages.values()),
            limit_bytes=self.limit_bytes,
            bus_at=self.bus_at,
        )

    async def read(self, after):
        number = min((number for number in self.messages if number > after), default=None)
        return self.messages[number] if number is not None and number not in self.hidden else None

    async def unread(self):
        return self.unread_from

    async def unsent(self):
        return self.unsent_from

    async def trim(self, last):
        self.messages = {number: message for number, message in self.messages.items() if number > last}
