"""Allowances: in any time a caller gets what was left, what came, and one request more; concurrency changes nothing."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.openai.limits import most_tokens
from services.gateway.domain.request_rates import MINUTE_S, Allowance

LIMIT = 1000.0


@dataclass
class Running:
    """A request that was admitted: when, what it may take, and what it will have taken."""

    at_s: float
    most: float
    used: float


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "end", "correct", "wait", "back"]),
        st.floats(0.0, 1.0),
        st.sampled_from([1.0, 10.0, 300.0, 999.0, 1000.0, 2500.0]),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_caller_gets_more_than_the_limit_and_one_request(steps):
    allowance, now_s, running, ended = Allowance.filled(LIMIT, 0.0), 0.0, [], []
    for action, share, size in steps:
        if action == "wait":
            now_s += share * 40.0
        elif action == "back":  # a clock that goes back gives nothing
            allowance = allowance.at(now_s - share * 40.0)
        elif action == "ask" and allowance.wait_s(size, now_s) == 0.0:
            allowance = allowance.hold(size, now_s)
            running.append(Running(now_s, size, size * share))
        elif action == "correct" and running:
            chosen = running[int(share * (len(running) - 1))]
            less = (chosen.most - chosen.used) * share
            allowance, chosen.most = allowance.hold(-less, now_s), chosen.most - less
        elif action == "end" and running:
            chosen = running.pop(int(share * (len(running) - 1)))
            allowance = allowance.hold(-chosen.most, now_s).take(chosen.used, now_s)
            ended.append(chosen)
    admitted = sorted([*running, *ended], key=lambda request: request.at_s)
    for first, begin in enumerate(admitted):
        used = 0.0
        for request in admitted[first:]:
            used += request.used
            came = LIMIT * (now_s - begin.at_s) / MINUTE_S
            assert used <= LIMIT + came + max(request.most for request in admitted) + 1e-6


@given(STEPS)
def test_what_is_held_comes_back(steps):
    allowance = Allowance.filled(LIMIT, 0.0)
    sizes = [size for action, _, size in steps if action == "ask"]
    for size in sizes:
        allowance = allowance.hold(size, 1.0)
    for size in sizes:
        allowance = allowance.hold(-size, 2.0)
    assert allowance.available(2.0) == pytest.approx(LIMIT)


@pytest.mark.parametrize(
    ("kind", "body", "size", "most"),
    [
        ("chat", {"max_tokens": 10}, 40, (40, 10)),
        ("chat", {"max_tokens": 10, "n": 3}, 40, (40, 30)),
        ("chat", {}, 40, (40, 60)),  # up to the context
        ("chat", {"max_completion_tokens": 7, "max_tokens": 9}, 40, (40, 7)),
        ("chat", {}, 4000, (100, 1)),  # if the prompt fills the context, at least a token comes
        ("completion", {"prompt": ["a", "b"], "n": 2}, 40, (40, 64)),
        ("completion", {"prompt": [1, 2, 3]}, 40, (40, 16)),
        ("responses", {"max_output_tokens": 5}, 40, (40, 5)),
        ("embeddings", {"input": "a"}, 40, (40, 0)),
        ("tokenize", {"prompt": "a"}, 40, (0, 0)),
    ],
)
def test_the_most_that_a_request_may_take(kind, body, size, most):
    assert most_tokens(kind, body, size, 100) == most
