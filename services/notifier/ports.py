"""What the notifier needs from outside."""

from typing import Protocol

from services.notifier.domain.notices import Due


class SendFailedError(Exception):
    """A receiver did not take a notification; the text says why, without a secret."""


class Sender(Protocol):
    """Sends notifications to receivers."""

    async def send(self, due: Due) -> None:
        """Send a notification; return once its receiver has taken it.

        Raises:
            SendFailedError: it did not, or may not have.
        """


class DeadLetters(Protocol):
    """The stream of messages that were given up."""

    async def store(self, model: str, due: Due, *, attempts: int, reason: str) -> None:
        """Store the event of a notification that was given up, with the reason.

        Raises:
            Transient: the stream does not have it.
        """
