"""What an engine's agent accepts: terms only rise, whatever comes in which order, and no request counts twice."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.server_manager.adapters.kv_state import KvLeadership
from services.server_manager.adapters.repository_files import LeaseFiles
from services.server_manager.adapters.term_file import TermFile
from services.server_manager.domain.fencing import HOLDERS_KEPT, MOST, Sequences, assess_term
from services.server_manager.domain.records import Leader
from services.server_manager.ports import Extent
from tests.kit.fakes_serving import FakeClock
from tests.kit.records import MemoryRecords

leaders = st.builds(Leader, holder=st.sampled_from(["a", "b"]), term=st.integers(0, 5))


@given(highest=leaders, asked=leaders)
def test_a_term_is_current_only_for_the_process_that_has_it(highest, asked):
    check = assess_term(highest, asked)
    assert (check == "higher") == (asked.term > highest.term)
    assert (check == "current") == (asked == highest)
    assert assess_term(None, asked) == "higher"


class Agent(RuleBasedStateMachine):
    """The stored term of an agent that is killed between any two steps."""

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "agent" / "term.json"
        self.file = TermFile(self._path)
        self.acted = []

    def teardown(self):
        self._folder.cleanup()

    @rule()
    def restart(self):
        self.file = TermFile(self._path)

    @rule(asked=leaders, end=st.sampled_from(["killed before storing", "killed before acting", "acts"]))
    def ask(self, asked, end):
        if end == "killed before storing":
            return self.restart()
        self.file.raise_to(asked)
        if end == "killed before acting":
            return self.restart()
        if assess_term(self.file.highest, asked) == "current":
            self.acted.append(asked)
        return None

    @invariant()
    def never_goes_back(self):
        terms = [leader.term for leader in self.acted]
        assert terms == sorted(terms)
        holders = {}
        for leader in self.acted:
            assert holders.setdefault(leader.term, leader.holder) == leader.holder


TestAgent = Agent.TestCase


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 9)), max_size=30))
def test_no_number_of_a_process_counts_twice_or_after_a_higher_one(asked):
    sequences, taken = Sequences(), {"a": [], "b": []}
    for holder, number in asked:
        if sequences.take(holder, number):
            taken[holder].append(number)
    for numbers in taken.values():
        assert numbers == sorted(set(numbers))
        assert all(number > 0 for number in numbers)


def test_numbers_have_a_limit_and_so_has_what_is_remembered():
    sequences = Sequences()
    assert not sequences.take("a", MOST)
    assert sequences.take("a", 1)
    for number in range(HOLDERS_KEPT):
        assert sequences.take(f"process {number}", 1)
    assert not sequences.take(f"process {HOLDERS_KEPT - 1}", 1)
    assert sequences.take("a", 1), "it asked before so many others that it is forgotten; its term is superseded by then"


def test_a_term_that_is_not_higher_replaces_nothing(tmp_path):
    file = TermFile(tmp_path / "term.json")
    file.raise_to(Leader(holder="a", term=7))
    for late in (Leader(holder="b", term=7), Leader(holder="b", term=6)):
        file.raise_to(late)
        assert file.highest == TermFile(tmp_path / "term.json").highest == Leader(holder="a", term=7)


def test_a_term_that_cannot_be_stored_does_not_count(tmp_path):
    file = TermFile(tmp_path / "term.json")
    file.raise_to(Leader(holder="a", term=7))
    (tmp_path / "term.json").unlink()
    (tmp_path / "term.json").mkdir()
    (tmp_path / "term.json" / "x").touch()
    with pytest.raises(OSError, match=r"term\.json"):
        file.raise_to(Leader(holder="b", term=8))
    assert file.highest == Leader(holder="a", term=7)


@pytest.mark.parametrize("damaged", [b"", b'{"holder":"a"', b"[]", b'{"holder":"a","term":"many"}'])
def test_a_damaged_file_is_no_lowest_term(tmp_path, damaged):
    (tmp_path / "term.json").write_bytes(damaged)
    with pytest.raises(ValueError, match="holds no term"):
        TermFile(tmp_path / "term.json")


def leadership(records, holder):
    return KvLeadership(records, "main", holder, FakeClock(), LeaseFiles([]))


async def test_a_holder_that_an_agent_refuses_takes_a_term_above_it_if_the_lease_is_still_its_own():
    """The bucket was restored, so that it has forgotten the terms since."""
    lead = leadership(MemoryRecords(Leader), "a")
    assert await lead.hold()
    assert lead.leader == Leader(holder="a", term=1)
    lead.note_superseded(7)
    lead.note_superseded(3)
    assert await lead.confirm() is Extent.NOTHING, "what was confirmed under the term before does not count"
    assert await lead.hold()
    assert lead.leader == Leader(holder="a", term=8)
    assert await lead.confirm() is Extent.ALL


async def test_a_holder_that_an_agent_refuses_takes_nothing_from_the_next_one():
    records = MemoryRecords(Leader)
    former, following = leadership(records, "a"), leadership(records, "b")
    assert await former.hold()
    await former.release()
    assert await following.hold()
    former.note_superseded(following.leader.term)
    assert not await former.hold()
    assert await following.confirm() is Extent.ALL
    await following.release()
    assert await former.hold()
    assert former.leader.term > following.leader.term
