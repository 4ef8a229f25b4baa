"""Reads of the bus: the last message of a subject without a consumer, others with a consumer of this identity."""

import asyncio
import contextlib
import json
import random
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import BadRequestError, NotFoundError
from pydantic import BaseModel

from contracts.services import RECORD_KEYS
from decisions.access.bus_permissions import OWN_PERMISSIONS, consumer_names, readable_models
from shared.errors import Transient
from shared.messaging.patience import NO_LEADER, ask_again, ask_beside
from shared.storage.record_format import parse

R = TypeVar("R", bound=BaseModel)
BATCH = 200
ANSWER_S = 5.0
IDLE_S = 10.0
"""Seconds after which the server removes an unused consumer."""
CLUSTER_S = 30.0
"""Seconds within which a cluster creates a consumer: a server that is cut off is left after 14 s, and an election takes
some seconds."""
FREE_S = IDLE_S + 2.0
"""Maximum wait in seconds for a consumer of this identity while other commands use all of them."""
_AGAIN_S = 0.1
_TAKEN, _TOO_MANY = 10148, 10026
_DELETED = "KV-Operation"
_ALLOWED: Final[WeakKeyDictionary[Client, tuple[str, ...] | None]] = WeakKeyDictionary()


class Subscription:
    """A consumer of a stream; the server removes it after `IDLE_S` without use."""

    def __init__(self, js: JetStreamContext, stream: str, pull: JetStreamContext.PullSubscription, ahead: int) -> None:
        """Wrap the consumer of `subscribe`."""
        self._js = js
        self._stream = stream
        self._pull = pull
        self.ahead = ahead
        """Number of messages in the stream when the consumer was created."""

    async def fetch(self, wait_s: float) -> list[Msg]:
        """Return the available messages, or wait for a message; raise TimeoutError if no message arrives."""
        first = await self._pull.fetch(1, timeout=wait_s)
        pending = first[-1].metadata.num_pending
        return first if pending == 0 else first + await self._pull.fetch(min(pending, BATCH), timeout=wait_s)

    async def close(self) -> None:
        """Remove the consumer; raise an error of the client if the bus does not answer."""
        await self._pull.unsubscribe()
        await self._js.delete_consumer(self._stream, self._pull._consumer)  # noqa: SLF001 - the client has no name of it


async def subscribe(js: JetStreamContext, stream: str, *subjects: str, **settings: Any) -> Subscription:
    """Return a new consumer of subjects, with settings of nats-py's ConsumerConfig.

    A cluster is asked again for `CLUSTER_S` while its servers elect a leader of the stream.

    Raises:
        Transient: Other commands use all consumers of this identity, or the stream is at its limit of consumers.
    """
    config = ConsumerConfig(
        filter_subject=subjects[0] if len(subjects) == 1 else None,
        filter_subjects=list(subjects) if len(subjects) > 1 else None,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=IDLE_S,
        mem_storage=True,
        metadata={"reader": secrets.token_hex(12)},  # what makes it differ from each other one of the same name
        **settings,
    )
    names = consumer_names(await _allowed(js) or (), stream) or (f"cli-{secrets.token_hex(12)}",)
    ends_s = asyncio.get_running_loop().time() + FREE_S
    while True:
        for name in random.sample(names, len(names)):
            ahead = await _make(js, stream, config.evolve(name=name))
            if ahead is not None:
                pull = await js.pull_subscribe_bind(consumer=name, stream=stream)
                return Subscription(js, stream, pull, ahead)
        if asyncio.get_running_loop().time() > ends_s:
            reason = f"The {len(names)} consumers that this identity may have of {stream} are in use"
            advice = f"end one of its commands that follow, or try again in {IDLE_S:g} s"
            raise Transient("bus_unavailable", f"{reason}: {advice}.")
        await asyncio.sleep(_AGAIN_S)


async def _make(js: JetStreamContext, stream: str, config: ConsumerConfig) -> int | None:
    """Create a consumer and return its number of pending messages; None if the name is taken."""
    ending = f".{config.filter_subject}" if config.filter_subject not in (None, ">") else ""
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.{config.name}{ending}"
    request = json.dumps({"stream_name": stream, "config": config.as_dict(), "action": "create"}).encode()

    async def add(limit_s: float) -> int:  # made twice it is the same one
        answer = await js._api_request(subject, request, limit_s)  # noqa: SLF001 - the client's call changes what is there
        return int(answer.get("num_pending", 0))

    limit_s = js._timeout  # noqa: SLF001 - nats-py has no public name for it
    try:
        return await ask_beside(add, within_s=max(limit_s, CLUSTER_S) if _in_cluster(js) else limit_s)
    except BadRequestError as error:
        if error.err_code == _TAKEN:
            return None
        if error.err_code == _TOO_MANY:
            raise Transient(
                "bus_unavailable", f"The stream {stream} has all the consumers that it may have: see `slipway doctor`."
            ) from error
        raise


@dataclass(frozen=True)
class LastMessage:
    """The last message of a subject."""

    subject: str
    sequence: int
    data: bytes
    headers: Mapping[str, str]
    at: datetime | None


async def last_message(js: JetStreamContext, stream: str, subject: str) -> LastMessage | None:
    """Return the last message of a subject, read without a consumer; None without a message.

    Members of teams may not read subjects with wildcards this way.
    """
    direct = "*" not in subject  # the server takes no wildcards there

    async def ask(_limit_s: float) -> LastMessage | None:
        try:
            message = await js.get_msg(stream, subject=subject, direct=direct)
        except NotFoundError:
            return None
        except NoRespondersError:  # its stream is not provisioned for this yet, or there is none
            messages = await read_messages(js, stream, subject, most=1, deliver_policy=DeliverPolicy.LAST)
            return next((_last(message) for message in messages), None)
        return LastMessage(
            message.subject or subject, message.seq or 0, message.data or b"", message.headers or {}, message.time
        )

    return await ask_beside(ask, within_s=js._timeout)  # noqa: SLF001 - nats-py has no public name for it


def _last(message: Msg) -> LastMessage:
    metadata = message.metadata
    return LastMessage(
        message.subject, metadata.sequence.stream, message.data, message.headers or {}, metadata.timestamp
    )


async def read_messages(
    js: JetStreamContext, stream: str, subject: str, *, most: int | None = None, **settings: Any
) -> list[Msg]:
    """Return the present messages of a subject, in the order of the stream.

    Args:
        js: The bus.
        stream: The stream.
        subject: The subject, with or without wildcards.
        most: Maximum number of messages.
        settings: Settings of the consumer, such as its first message.

    Raises:
        Transient: The stream stops answering.
    """

    async def read(_limit_s: float) -> list[Msg]:
        return await _read_once(js, stream, subject, most, settings)

    limit_s = CLUSTER_S if _in_cluster(js) else 0.0  # a consumer is on one server, and is lost with it
    return await ask_again(read, within_s=0.0, without_leader_s=limit_s, repeated=(*NO_LEADER, Transient))


async def _read_once(
    js: JetStreamContext, stream: str, subject: str, most: int | None, settings: Mapping[str, Any]
) -> list[Msg]:
    subscription = await subscribe(js, stream, subject, **settings)
    count = subscription.ahead if most is None else min(most, subscription.ahead)
    messages: list[Msg] = []
    try:
        while len(messages) < count:
            messages += await subscription.fetch(ANSWER_S)
    except TimeoutError as error:
        raise Transient("bus_unavailable", f"The stream {stream} stopped answering.") from error
    finally:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await subscription.close()
    return messages[:count]


def _in_cluster(js: JetStreamContext) -> bool:
    return bool(js._nc._server_info.get("cluster"))  # noqa: SLF001 - nats-py has no public name for it


async def own_models(js: JetStreamContext) -> tuple[str, ...] | None:
    """Return the models that this identity may read; None for all."""
    allowed = await _allowed(js)
    return None if allowed is None else readable_models(allowed)


async def _allowed(js: JetStreamContext) -> tuple[str, ...] | None:
    """Return the subjects that this identity may publish; None for all. A connection asks once."""
    client = js._nc  # noqa: SLF001 - the client of this context
    if client not in _ALLOWED:
        answer = await client.request(OWN_PERMISSIONS, b"", timeout=ANSWER_S)
        permissions = json.loads(answer.data)["data"].get("permissions")
        _ALLOWED[client] = None if permissions is None else tuple(permissions.get("publish", {}).get("allow", [">"]))
    return _ALLOWED[client]


@dataclass(frozen=True)
class RecordsOfModels(Generic[R]):
    """Records in a bucket, of the models that this identity may read."""

    js: JetStreamContext
    bucket: str
    kind: type[R]
    only: re.Pattern[str] = re.compile("")
    """A pattern that keys must contain, for buckets with several kinds of records."""

    async def get(self, key: str) -> R | None:
        """Return a record; None if it does not exist."""
        message = await last_message(self.js, f"KV_{self.bucket}", f"$KV.{self.bucket}.{key}")
        if message is None or _DELETED in message.headers:
            return None
        return parse(self.kind, message.data, f"{self.bucket}/{key}")

    async def all(self) -> dict[str, R]:
        """Return the records of all models that this identity may read, by key."""
        records: dict[str, R] = {}
        for pattern in await _own_keys(self.js, self.bucket):
            records |= await self.matching(pattern)
        return records

    async def matching(self, pattern: str) -> dict[str, R]:
        """Return the records with a key that matches a pattern, by key."""
        prefix = f"$KV.{self.bucket}."
        kept = await _last_of_keys(self.js, self.bucket, pattern)
        keys = {message.subject.removeprefix(prefix): message.data for message in kept}
        return {
            key: parse(self.kind, data, f"{self.bucket}/{key}") for key, data in keys.items() if self.only.search(key)
        }


async def keys_of(js: JetStreamContext, bucket: str) -> list[str]:
    """Return the keys of a bucket about the models that this identity may read."""
    patterns = await _own_keys(js, bucket)
    messages = [each for pattern in patterns for each in await _last_of_keys(js, bucket, pattern, headers_only=True)]
    return sorted({message.subject.removeprefix(f"$KV.{bucket}.") for message in messages})


async def _own_keys(js: JetStreamContext, bucket: str) -> Sequence[str]:
    """Return the patterns of the keys that this identity may read."""
    models = await own_models(js)
    if models is None:
        return (">",)
    return tuple(dict.fromkeys(each.format(model=model) for each in RECORD_KEYS[bucket] for model in models))


async def _last_of_keys(js: JetStreamContext, bucket: str, pattern: str, **settings: Any) -> list[LastMessage]:
    """Return the last message of each key that matches a pattern and was not deleted."""
    subject = f"$KV.{bucket}.{pattern}"
    if "*" in pattern or ">" in pattern:
        policy = DeliverPolicy.LAST_PER_SUBJECT
        read = await read_messages(js, f"KV_{bucket}", subject, deliver_policy=policy, **settings)
        messages = [_last(message) for message in read]
    else:
        last = await last_message(js, f"KV_{bucket}", subject)
        messages = [] if last is None else [last]
    return [message for message in messages if _DELETED not in message.headers]
