"""What a stack keeps of its runtimes from one start to the next: their ports, and which environment each had."""

import json
from pathlib import Path

import pytest

from deploy.local import plan
from deploy.local.plan import StackConfig
from deploy.local.ports import keep_ports
from deploy.local.runtimes import describe_exchange, find_exchange, read_notes, write_notes


def note(digest):
    return json.dumps({"environment_digest": f"sha256:{digest}"})


def test_a_runtime_that_is_removed_and_added_again_has_the_ports_that_routes_name():
    with_next = plan.port_names(StackConfig(runtimes=("next",)))
    first = keep_ports(with_next, {})
    without = keep_ports(plan.port_names(StackConfig()), first)
    assert without == first
    assert keep_ports(with_next, without) == first


def test_a_new_runtime_takes_no_port_that_is_kept_for_another():
    first = keep_ports(plan.port_names(StackConfig(runtimes=("next",))), {})
    later = keep_ports(plan.port_names(StackConfig(runtimes=("other",))), first)
    assert len(set(later.values())) == len(later) == len(first) + 5


AB = {"triton": note("a"), "triton-next": note("b"), "triton-other": note("c")}


@pytest.mark.parametrize(
    ("after", "exchanged"),
    [
        (AB, None),
        ({**AB, "triton": note("b"), "triton-next": note("a")}, ("triton", "triton-next")),
        ({**AB, "triton-next": note("c"), "triton-other": note("b")}, ("triton-next", "triton-other")),
        ({**AB, "triton": note("new")}, None),
        ({"triton": note("b")}, None),
        ({**AB, "triton": note("b")}, None),
        ({**AB, "triton-next": "{", "triton": note("b")}, None),
    ],
)
def test_an_exchange_is_one_of_two_that_were_there_and_are_there(after, exchanged):
    assert find_exchange(AB, after) == exchanged
    assert find_exchange({"triton": note("a"), "triton-next": note("a")}, after) is None
    assert find_exchange({}, after) is None


def test_the_refusal_says_which_how_and_what_to_write():
    text = describe_exchange(("triton", "triton-next"), {"triton": Path("/new"), "triton-next": Path("/old")})
    assert text.startswith(
        "the runtimes default and next have exchanged their engine environments since the last start"
    )
    assert text.endswith("slipway up --engine-env /old --runtime next=/new")


def test_notes_are_read_where_there_are_some_and_written_back(tmp_path):
    (tmp_path / "triton").mkdir()
    assert read_notes(tmp_path, ["triton", "triton-next"]) == {}
    write_notes(tmp_path, {"triton": note("a")})
    assert read_notes(tmp_path, ["triton", "triton-next"]) == {"triton": note("a")}
