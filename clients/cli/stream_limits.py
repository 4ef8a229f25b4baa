"""Warnings of `slipway status` about streams and buckets that are nearly full."""

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StreamInfo

from contracts.services import TELEMETRY
from shared.messaging.topology import consumer_limit


async def nearly_full(js: JetStreamContext) -> list[str]:
    """Return a warning for each stream and bucket that is at 90 % of its limit of bytes or of consumers, or more."""
    infos = await js.streams_info()
    return [
        f"{info.config.name} holds {info.state.bytes} of {info.config.max_bytes} bytes; "
        f"{_when_full(info)}; see stream_full in docs/runbooks/serving.md"
        for info in infos
        if info.config.name != TELEMETRY
        and info.config.max_bytes
        and info.config.max_bytes > 0
        and info.state.bytes >= 0.9 * info.config.max_bytes
    ] + [
        f"{info.config.name} has {info.state.consumer_count} of {consumer_limit(info.config)} consumers; "
        "when it has no more, nothing reads it with a new one; see `slipway doctor`"
        for info in infos
        if info.state.consumer_count >= 0.9 * consumer_limit(info.config)
    ]


def _when_full(info: StreamInfo) -> str:
    if info.config.discard == DiscardPolicy.OLD:
        return "the oldest messages are dropped"
    limit = info.config.max_bytes or 0
    return "it accepts no more messages" if info.state.bytes > 0.99 * limit else "when full it accepts no more messages"
