"""Repeats requests to the bus, because a cluster drops requests during a leader election.

An election takes 4 to 9 s. A lost request is not reported, so it is repeated: soon at first, later with more time for a
slow server.
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
"""Time limit of the first try; it doubles with each try, except for reads, which are repeated concurrently."""
ELECTION_S: Final = 15.0
"""Limit of repeating a request without a receiver: longer than an election."""
_AGAIN_S: Final = 0.1
_UNKNOWN_S: Final = 2.0
"""Limit of repeating a pull from an unknown consumer."""
_READS: Final = ("STREAM.INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.MSG.GET", "CONSUMER.INFO")
"""Idempotent requests."""
NO_LEADER: Final = (NoRespondersError, NoStreamResponseError, ServiceUnavailableError)
"""Answers to a request that no server took: nothing was done."""


async def ask_again(
    ask: Callable[[float], Awaitable[T]],
    *,
    within_s: float,
    without_leader_s: float,
    repeated: tuple[type[Exception], ...] = NO_LEADER,
    soon_s: float = 0.0,
) -> T:
    """Return the first answer to an idempotent request, repeated one try after the other.

    Args:
        ask: Makes the request, with a time limit in seconds.
        within_s: Total time for timeouts, in seconds.
        without_leader_s: Total time for errors in `repeated`, in seconds.
        repeated: Errors after which the request is repeated.
        soon_s: Seconds during which a try takes at most twice `FIRST_S`, to be repeated soon after an election.

    Raises:
        TimeoutError: No answer within `within_s`.
        nats.errors.Error: The last error in `repeated`, or the first other error.
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
    """Return the first answer to a read, repeated each second beside the earlier tries.

    A read lost with its leader is thus repeated soon after the election, and a slow server may still answer an earlier
    try. After `ELECTION_S` without any answer the interval doubles, to spare a hanging server. Without a connection
    nothing is added: pending requests are sent on reconnection.

    Args:
        ask: Makes the request, with a time limit in seconds.
        within_s: Total time, in seconds.
        is_connected: Returns whether the client is connected.

    Raises:
        TimeoutError: No answer within `within_s`.
        nats.errors.Error: The last error of `NO_LEADER`, or the first other error.
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
        """Return a subscription to a durable consumer, without checking that it exists.

        `JetStreamContext.pull_subscribe` creates a missing consumer, which only the provisioner may do. Pulls are
        refused until the consumer exists.
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
    """Pulls with a pause after refusals: a server refuses pulls from an unknown consumer at once.

    In a cluster a new consumer is unknown for milliseconds; a deleted one, or one without a leader, for longer.
    """

    async def fetch(self, batch: int = 1, timeout: float | None = 5, heartbeat: float | None = None) -> list[Msg]:  # noqa: ASYNC109 - of nats-py
        """Pull messages; a refused request is repeated for a while.

        Raises:
            ServiceUnavailableError: It is still refused after `_UNKNOWN_S` seconds.
        """

        async def pull(_limit_s: float) -> list[Msg]:
            return await super(PacedPull, self).fetch(batch, timeout, heartbeat)

        return await ask_again(pull, within_s=0.0, without_leader_s=_UNKNOWN_S, repeated=(ServiceUnavailableError,))
