"""Requests to a bus that is choosing a leader: they are asked again, for a limited time."""

import asyncio

import nats.errors
import pytest
from nats.js.errors import NoStreamResponseError

from shared.messaging.patience import ask_again
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
