"""Repeats requests to a bus that does not answer: during a leader election it drops requests.

Servers of a cluster take 4 to 9 s to replace a leader that died. Nothing tells a client that its request is lost, so
it is repeated: soon at first, and later with more time, for a server that is slow.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError

T = TypeVar("T")
FIRST_S: Final = 1.0
"""How long the first answer is awaited: twice as long each time, but for reads, which are asked again beside it."""
ELECTION_S: Final = 15.0
"""How long a request is repeated that has no receiver: longer than a stream is without a leader."""
_AGAIN_S: Final = 0.1
_UNKNOWN_S: Final = 2.0
"""How long a pull is repeated whose consumer the server does not know."""
_READS: Final = ("STREAM.INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.MSG.GET", "CONSUMER.INFO")
"""Requests that change nothing, and may be made twice."""
NO_LEADER: Final = (NoRespondersError, NoStreamResponseError, ServiceUnavailableError)
"""The server's answer where no server takes a request: nothing was done."""


async def ask_again(
    ask: Callable[[float], Awaitable[T]],
    *,
    within_s: float,
    without_leader_s: float,
    repeated: tuple[type[Exception], ...] = NO_LEADER,
    soon_s: float = 0.0,
) -> T:
    """Return the first answer to a request that may be made more than once.

    Args:
        ask: Makes the request and awaits its answer for some seconds.
        within_s: How long answers are awaited in all.
        without_leader_s: How long a request is repeated that has no receiver.
        repeated: The answers of this kind.
        soon_s: For so long an answer is awaited for twice `FIRST_S` at most: what is lost with a leader is asked again
            soon after the election, whenever that ends.

    Raises:
        TimeoutError: There was no answer.
        nats.errors.Error: The last answer of a kind that is repeated, and the first of every other kind.
    """
    clock, limit_s = asyncio.get_running_loop().time, FIRST_S
    began_s = clock()
    while True:
        left_s = began_s + within_s - clock()
        try:
            return await ask(max(min(limit_s, left_s), 0.001))
        except TimeoutError:
            limit_s = 2 * (limit_s if clock() - began_s >= soon_s else FIRST_S)
            if clock() - began_s >= within_s:
                raise
        except repeated:
            if clock() - began_s >= without_leader_s:
                raise
            await asyncio.sleep(_AGAIN_S)


async def ask_beside(
    ask: Callable[[float], Awaitable[T]], *, within_s: float, is_connected: Callable[[], bool] = lambda: True
) -> T:
    """Return the first answer to a read, which is repeated each second for `ELECTION_S`.

    A request lost with its leader is thus repeated soon after the election, whenever that ends; a request that a slow
    server has continues beside later ones. A server that hangs for longer than an election has all of them to answer
    once it goes on: the time between two is doubled then, but not by refusals, which are answers; and none is added to
    those that wait for a connection.

    Args:
        ask: Makes the request and awaits its answer for some seconds.
        within_s: How long answers are awaited in all.
        is_connected: Whether there is a connection: without one, what was asked is sent once there is.

    Raises:
        TimeoutError: There was no answer.
        nats.errors.Error: The last answer that no server takes the request, and the first of every other kind.
    """
    clock = asyncio.get_running_loop().time
    began_s, pause_s, asked, done = clock(), FIRST_S, set[asyncio.Future[T]](), set[asyncio.Future[T]]()
    ends_s = began_s + within_s
    try:
        while True:
            left_s = max(ends_s - clock(), 0.001)
            if not asked or is_connected():
                asked.add(asyncio.ensure_future(ask(left_s)))
            if not done and clock() - began_s >= ELECTION_S:
                pause_s *= 2
            done, _ = await asyncio.wait(asked, timeout=min(pause_s, left_s), return_when=asyncio.FIRST_COMPLETED)
            asked -= done
            answered = [task for task in done if not isinstance(task.exception(), (TimeoutError, *NO_LEADER))]
            if answered or (done and clock() >= ends_s):
                return (answered or [*done])[0].result()
            if clock() >= ends_s:
                raise nats.errors.TimeoutError
            if done:
                await asyncio.sleep(_AGAIN_S)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


class PatientJetStream(JetStreamContext):
    """JetStream with repeated reads, within the time limit of the context, and paced pulls."""

    async def _api_request(self, req_subject: str, req: bytes = b"", timeout: float = 5) -> dict[str, Any]:  # noqa: ASYNC109 - of nats-py
        if not any(f".{verb}." in req_subject for verb in _READS):
            return await super()._api_request(req_subject, req, timeout)

        async def ask(limit_s: float) -> dict[str, Any]:
            return await super(PatientJetStream, self)._api_request(req_subject, req, limit_s)

        return await ask_beside(
            ask, within_s=max(timeout, self._timeout), is_connected=lambda: bool(self._nc.is_connected)
        )

    async def pull_subscribe(self, *arguments: Any, **options: Any) -> JetStreamContext.PullSubscription:
        """Return a subscription to a durable consumer, without asking whether it exists.

        `JetStreamContext.pull_subscribe` makes one that does not, which only the provisioner may: a service would end
        if its consumer was deleted as it started. Pulls are refused until it is there.
        """
        durable, stream = options.get("durable"), options.get("stream")
        if durable is None or stream is None:
            return await super().pull_subscribe(*arguments, **options)
        taken = ("inbox_prefix", "pending_msgs_limit", "pending_bytes_limit")
        bound = {name: options[name] for name in taken if name in options}
        return await self.pull_subscribe_bind(durable=durable, stream=stream, **bound)

    async def pull_subscribe_bind(self, *arguments: Any, **options: Any) -> JetStreamContext.PullSubscription:
        """Return the subscription of `JetStreamContext.pull_subscribe_bind`, as a `PacedPull`."""
        bound = await super().pull_subscribe_bind(*arguments, **options)
        return PacedPull(self, bound._sub, bound._stream, bound._consumer, bound._deliver.encode())  # noqa: SLF001


class PacedPull(JetStreamContext.PullSubscription):
    """Pulls with a pause after refusals: a server that does not know the consumer refuses each pull at once.

    In a cluster a server knows a consumer only some milliseconds after another one made it. A consumer without a
    leader, or that was deleted, is refused for longer.
    """

    async def fetch(self, batch: int = 1, timeout: float | None = 5, heartbeat: float | None = None) -> list[Msg]:  # noqa: ASYNC109 - of nats-py
        """Return the messages of `PullSubscription.fetch`.

        Raises:
            ServiceUnavailableError: No server takes the request, for `_UNKNOWN_S` seconds.
        """

        async def pull(_limit_s: float) -> list[Msg]:
            return await super(PacedPull, self).fetch(batch, timeout, heartbeat)

        return await ask_again(pull, within_s=0.0, without_leader_s=_UNKNOWN_S, repeated=(ServiceUnavailableError,))
