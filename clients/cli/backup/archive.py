"""The archive of the event log in a backup: the copied record, log and segments must have every event once."""

import sys

from nats.js import JetStreamContext

from clients.cli.backup.bus import value_at
from clients.cli.backup.contents import StreamCopy
from clients.cli.output import CommandError
from contracts.event_archive import BUCKET, KEY, EventArchive


async def archive_at(js: JetStreamContext, sequence: int, events: StreamCopy) -> EventArchive | None:
    """Return how far the log was archived when the bucket `archive` was at a sequence; None if it is not archived.

    Segments that were written later stay out of the backup. The copied log, which is younger, has their events, unless
    it was trimmed of them meanwhile.

    Raises:
        CommandError: the copies do not have all events, because the log was archived while it was copied.
    """
    now = await value_at(js, BUCKET, KEY, sys.maxsize)
    if not now:
        return None
    copied = await value_at(js, BUCKET, KEY, sequence)
    archive = EventArchive.model_validate(copied) if copied else None
    first = int(events.state["first_seq"])
    if archive is None or (now["segment"] > archive.segment and first > archive.archived + 1):
        raise CommandError(
            f"no backup was taken: the event log was archived and trimmed up to {first - 1} while it was copied; "
            "run the command again"
        )
    return archive
