"""The conformance suite of the event log that the registry archives: run over the fake and over a real stream."""

from collections.abc import Callable
from typing import Any

from contracts.facts import WindowSummarised
from decisions.event_archive import body_of

SUBJECT = f"{WindowSummarised.TYPE}.shop-bot.monitor"


class EventLogConformance:
    """A subclass has a fixture `log`, empty, and the methods `publish(log, subject, body, id)` and `remove(log, number)`."""

    publish: Callable[..., Any]
    remove: Callable[..., Any]

    async def test_an_empty_log_has_no_message_and_its_numbers_begin_with_one(self, log):
        state = await log.state()
        assert (state.last, state.messages, await log.read(0)) == (0, 0, None)

    async def test_messages_are_read_one_after_the_other_as_they_were_stored(self, log):
        for number, body in enumerate((b"{}", b"\xff{", b""), 1):
            await self.publish(log, SUBJECT, body, f"id-{number}")
        state = await log.state()
        assert (state.first, state.last, state.messages) == (1, 3, 3)
        read = [await log.read(after) for after in range(4)]
        assert [(m.sequence, m.subject, body_of(m), m.id) for m in read if m is not None] == [
            (1, SUBJECT, b"{}", "id-1"),
            (2, SUBJECT, b"\xff{", "id-2"),
            (3, SUBJECT, b"", "id-3"),
        ]
        assert read[3] is None
        assert abs((state.bus_at - read[2].at).total_seconds()) < 60

    async def test_what_was_removed_is_passed_over(self, log):
        for number in range(1, 5):
            await self.publish(log, SUBJECT, b"{}", f"id-{number}")
        await self.remove(log, 2)
        assert (await log.read(1)).sequence == 3
        for _ in range(2):  # also of what is gone already
            await log.trim(3)
        assert [(await log.read(0)).sequence, (await log.state()).first] == [4, 4]

    async def test_a_log_that_was_removed_whole_keeps_its_last_number(self, log):
        for number in (1, 2):
            await self.publish(log, SUBJECT, b"{}", f"id-{number}")
        await log.trim(2)
        state = await log.state()
        assert (state.first, state.last, state.messages, await log.read(0)) == (3, 2, 0, None)
        await self.publish(log, SUBJECT, b"{}", "id-3")
        assert (await log.read(0)).sequence == 3
