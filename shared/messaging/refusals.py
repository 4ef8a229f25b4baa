"""Raises permission errors of the bus at once; nats-py reports them apart from the request, which times out."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.identities import describe_refusal

_AUTHORIZATION = "authorization violation"


class NotPermitted(nats.errors.Error):
    """The bus does not permit a request to this identity; the message says how to grant it."""


class Refusals:
    """The refusals of one connection: its `note` is the client's `error_cb`."""

    def __init__(self, identity: str, on_refusal: Callable[[str], None]) -> None:
        """Begin without a refusal.

        Args:
            identity: The name of the identity that is connected.
            on_refusal: Called with each refusal's sentence.
        """
        self._identity = identity
        self._on_refusal = on_refusal
        self.rejected: str | None = None
        """Why the bus rejects this key; None while it accepts it."""
        self._waiting: defaultdict[str, set[asyncio.Future[Msg]]] = defaultdict(set)

    async def note(self, error: Exception) -> None:
        """Note a refused key; fail the pending requests to a subject that an error refuses."""
        if _AUTHORIZATION in str(error).lower():
            self._reject()
            return
        sentence = describe_refusal(str(error), self._identity)
        if sentence is None:
            return
        self._on_refusal(sentence)
        for subject, waiting in self._waiting.items():
            if f'"{subject.lower()}"' in str(error).lower():
                for request in waiting:
                    if not request.done():
                        request.set_exception(NotPermitted(sentence))

    async def accept(self) -> None:
        """Note that the bus accepts the key again."""
        self.rejected = None

    def _reject(self) -> None:
        if self.rejected is None:  # the client tries again and again, each second
            self.rejected = (
                f"the bus does not accept the key of {self._identity} any more: it was withdrawn; if it was replaced, "
                f"give this program the present file credentials/{self._identity}.nk and start it again"
            )
            self._on_refusal(self.rejected)

    def guard(self, client: Client) -> None:
        """Patch a client so that refused requests raise `NotPermitted`."""
        ask = client.request

        async def request(subject: str, *arguments: Any, **options: Any) -> Msg:
            refused: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
            self._waiting[subject].add(refused)
            asking = asyncio.ensure_future(ask(subject, *arguments, **options))
            try:
                await asyncio.wait((asking, refused), return_when=asyncio.FIRST_COMPLETED)
                return refused.result() if refused.done() and not asking.done() else await asking
            finally:
                asking.cancel()
                refused.cancel()
                self._waiting[subject].discard(refused)
                if not self._waiting[subject]:
                    del self._waiting[subject]

        client.request = request  # type: ignore[method-assign]  # nats-py has no other place for it
