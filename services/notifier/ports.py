"""Ports of the notifier."""

from typing import Protocol

from services.notifier.domain.notices import Notice, Transition


class SendFailedError(Exception):
    """A receiver did not take a notification; the text says why, without a secret."""


class Sender(Protocol):
    """Sends notifications to receivers."""

    async def send(self, receiver: str, notice: Notice, transition: Transition) -> None:
        """Return once its receiver has taken a notification; raise SendFailedError if it may not have."""
