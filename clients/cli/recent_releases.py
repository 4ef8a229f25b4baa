"""Read the events of the newest releases and of those under way, without the rest of the log."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from clients.cli.event_log import OF_RELEASES, LoggedEvent, merge, read_history
from clients.cli.names import RELEASE_ID
from clients.cli.reading import RecordsOfModels, own_models, subscribe
from clients.cli.recorded_releases import BUCKET, ReleasesOfModel
from contracts.envelope import nats_subject
from contracts.facts import ReleaseOpened
from contracts.services import EVENTS
from contracts.vocabulary import Contract, Instant

NEWEST: Final = 50
"""How many of the newest releases are read at least."""
BEFORE: Final = timedelta(hours=1)
"""How long before it was opened the announcement of a release under way is looked for."""
_SPAN: Final = 2048
"""Messages at the end of the log that are read at least."""


class _Opening(Contract):
    """Of the registry's record of a release: when it was opened."""

    opened_at: Instant


async def read_recent(js: JetStreamContext, newest: int = NEWEST) -> tuple[list[LoggedEvent], bool]:
    """Return the events of the newest releases and of all under way, in the order of time, and whether there are more.

    A member of a team reads the events of all releases of its models.
    """
    begin = None if await own_models(js) is not None else await _begin(js, newest)
    if begin is None:
        return whole_releases(await read_history(js, None, OF_RELEASES)), False
    history = await read_history(js, None, replace(OF_RELEASES, since=begin))
    for model, opened_at in (await _under_way(js)).items():
        if opened_at < begin:
            history += await read_history(js, model, replace(OF_RELEASES, since=opened_at - BEFORE))
    return whole_releases(merge(history)), True


def whole_releases(history: Sequence[LoggedEvent]) -> list[LoggedEvent]:
    """Return events without those of releases whose opening is not among them: the log, or what was read, cut them."""
    opened = {each.event.correlationid for each in history if isinstance(each.event.data, ReleaseOpened)}
    return [
        each
        for each in history
        if each.stream != EVENTS
        or each.event.correlationid in opened
        or RELEASE_ID.fullmatch(each.event.correlationid) is None
    ]


async def _begin(js: JetStreamContext, newest: int) -> datetime | None:
    """Return when the bus stored the first of the newest openings; None if the log has no more than these."""
    state = (await js.stream_info(EVENTS)).state
    low, high, span = state.first_seq, state.last_seq + 1, _SPAN
    while high - span > low and await _openings(js, state.last_seq + 1 - span) < newest:
        high, span = state.last_seq + 1 - span, span * 4
    low = max(low, state.last_seq + 1 - span)
    while high - low > _SPAN:
        middle = (low + high) // 2
        low, high = (middle, high) if await _openings(js, middle) >= newest else (low, middle)
    if low <= state.first_seq:
        return None
    return (await js.get_msg(EVENTS, low, subject=">", next=True)).time


async def _openings(js: JetStreamContext, start: int) -> int:
    """Return how many releases were opened from a number of the log on."""
    subject = nats_subject(ReleaseOpened.TYPE, "*", "*")
    policy = DeliverPolicy.BY_START_SEQUENCE
    subscription = await subscribe(js, EVENTS, subject, deliver_policy=policy, opt_start_seq=start)
    await subscription.close()
    return subscription.ahead


async def _under_way(js: JetStreamContext) -> dict[str, datetime]:
    """Return when the oldest release under way of each model was opened, by the registry's records."""
    models = await RecordsOfModels(js, BUCKET, ReleasesOfModel).matching("*.model")
    records = RecordsOfModels(js, BUCKET, _Opening)
    oldest: dict[str, datetime] = {}
    for key, record in models.items():
        model = key.removesuffix(".model")
        for release_id in record.open:
            release = await records.get(f"{model}.{release_id}")
            if release is not None:
                oldest[model] = min(oldest.get(model, release.opened_at), release.opened_at)
    return oldest
