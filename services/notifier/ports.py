"""Ports of the notifier."""

from typing import Protocol

from services.notifier.domain.notices import Notice, Receiver


class SendFailedError(Exception):
    """A receiver did not take a notification; the text says why, without a secret."""


class Sender(Protocol):
    """Sends notifications to receivers."""

    async def send(self, receiver: Receiver, notice: Notice, transition: str) -> None:
        """Return once a receiver has taken a notification; raise SendFailedError if it may not have."""
