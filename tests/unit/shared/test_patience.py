"""Requests to a bus that is choosing a leader: they are asked again, for a limited time."""

import asyncio

import nats.errors
import pytest
from nats.js.errors import NoStreamResponseError

from shared.messaging.patience import ask_again, ask_beside
from tests.kit.virtual_time import virtual_time

LOST = object()


class Bus:
    """Returns its answers in turn; records the time and the limit of each request."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.asked = []

    async def ask(self, limit_s):
        self.asked.append((round(asyncio.get_running_loop().time(), 1), round(limit_s, 1)))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is LOST:
            await asyncio.sleep(limit_s)
            raise nats.errors.TimeoutError
        if isinstance(answer, Exception):
            raise answer
        return answer


def asking(bus, within_s=10.0, without_leader_s=15.0, **more):
    return ask_again(bus.ask, within_s=within_s, without_leader_s=without_leader_s, **more)


@virtual_time
async def test_a_lost_request_is_asked_again_with_twice_the_time_until_the_limit():
    bus = Bus(LOST)
    with pytest.raises(nats.errors.TimeoutError):
        await asking(bus, within_s=10.0)
    assert bus.asked == [(0.0, 1.0), (1.0, 2.0), (3.0, 4.0), (7.0, 3.0)]


@virtual_time
async def test_what_is_to_be_made_soon_after_an_election_is_asked_again_every_two_seconds_and_then_with_more_time():
    """A fact whose publication was lost at 7 s was published again at 15 s only."""
    with pytest.raises(nats.errors.TimeoutError):
        await asking(bus := Bus(LOST), within_s=45.0, soon_s=15.0)
    assert [at for at, _ in bus.asked] == [0.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 19.0, 27.0, 43.0]


@virtual_time
async def test_the_first_answer_ends_it():
    bus = Bus(LOST, NoStreamResponseError(), "answer")
    assert await asking(bus) == "answer"
    assert [at for at, _ in bus.asked] == [0.0, 1.0, 1.1]


@virtual_time
async def test_a_request_without_a_receiver_is_repeated_for_longer_than_an_election():
    bus = Bus(*[NoStreamResponseError()] * 90, "answer")
    assert await asking(bus) == "answer"
    assert bus.asked[-1][0] == 9.0
    with pytest.raises(NoStreamResponseError):
        await asking(bus := Bus(NoStreamResponseError()), within_s=1.0)
    assert 9.0 + 15.0 <= bus.asked[-1][0] <= 9.0 + 15.2


@virtual_time
async def test_any_other_answer_is_raised_at_once_unless_its_kind_is_repeated():
    for failure in (ValueError("no"), nats.errors.BadSubjectError()):
        with pytest.raises(type(failure)):
            await asking(bus := Bus(failure))
        assert len(bus.asked) == 1
    assert await asking(Bus(nats.errors.BadSubjectError(), "answer"), repeated=(nats.errors.Error,)) == "answer"


@virtual_time
async def test_a_read_is_asked_again_each_second_so_that_it_is_answered_soon_after_any_election():
    """With twice the time at each try, one that was lost at 7 s was asked again at 15 s only."""
    bus = Bus(*[LOST] * 9, "answer")
    assert await ask_beside(bus.ask, within_s=15.0) == "answer"
    assert bus.asked == [(float(at), 15.0 - at) for at in range(10)]


@virtual_time
async def test_a_read_is_asked_ever_more_rarely_once_a_server_has_stood_for_longer_than_an_election_takes():
    with pytest.raises(TimeoutError):
        await ask_beside((bus := Bus(LOST)).ask, within_s=60.0)
    assert [at for at, _ in bus.asked] == [*map(float, range(16)), 17.0, 21.0, 29.0, 45.0]


@virtual_time
async def test_a_read_that_was_refused_for_longer_than_an_election_is_still_asked_each_second():
    """What was asked last as the election ended was lost, and then awaited to the end of the time."""
    bus = Bus(*[NoStreamResponseError()] * 170, LOST, "answer")
    assert await ask_beside(bus.ask, within_s=30.0) == "answer"
    assert [at for at, _ in bus.asked[-2:]] == [17.0, 18.0]


@virtual_time
async def test_a_read_is_not_asked_again_while_there_is_no_connection_to_send_it_by():
    connected_at_s, clock = 5.5, asyncio.get_running_loop()
    bus = Bus(LOST, "answer")
    answer = await ask_beside(bus.ask, within_s=10.0, is_connected=lambda: clock.time() > connected_at_s)
    assert answer == "answer"
    assert [at for at, _ in bus.asked] == [0.0, 6.0]


@virtual_time
async def test_a_slow_answer_to_a_read_counts_and_ends_what_was_asked_beside_it():
    running = 0

    async def ask(limit_s):
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(3.5)
            return "slow"
        finally:
            running -= 1

    assert await ask_beside(ask, within_s=10.0) == "slow"
    assert asyncio.get_running_loop().time() == pytest.approx(3.5, abs=0.01)
    assert running == 0


@virtual_time
async def test_a_read_without_an_answer_ends_at_its_limit():
    with pytest.raises(TimeoutError):
        await ask_beside(Bus(LOST).ask, within_s=10.0)
    assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.2)
    with pytest.raises(NoStreamResponseError):
        await ask_beside(Bus(NoStreamResponseError()).ask, within_s=5.0)
    assert asyncio.get_running_loop().time() == pytest.approx(15.0, abs=0.4)


@virtual_time
async def test_a_read_that_no_server_takes_is_asked_again_and_any_other_answer_is_raised():
    bus = Bus(*[NoStreamResponseError()] * 30, "answer")
    assert await ask_beside(bus.ask, within_s=10.0) == "answer"
    assert bus.asked[-1][0] == 3.0
    with pytest.raises(nats.errors.BadSubjectError):
        await ask_beside(Bus(nats.errors.BadSubjectError()).ask, within_s=10.0)
