"""The audit log of one model: what its team can prove without the entries of others, and every way to falsify it."""

import json

import pytest

from clients.cli.backup.contents import belongs
from contracts.audit import AuditItem, AuditTail
from contracts.vocabulary import canonical_json
from decisions.sealed_log.audit import append, line_of
from shared.errors import Permanent
from shared.provenance.audit_log import AuditReading, put_segment, segment_key
from shared.provenance.model_audit import (
    compare_with_events,
    compare_with_log,
    part_key,
    put_parts,
    read_model,
)
from testbed import factories as f
from testbed.attesters import attester, trust
from tests.kit.objects import Objects

MODELS = ("a-bot", "b-bot", "", "../a-bot")
ORDERS = "SLIPWAY_ORDERS"


class Contested(Objects):
    """Another registry is always faster."""

    def create(self, key, data, _retention=None):
        super().create(key, b"another registry's\n")
        super().create(key, data)

    def pinned(self, _pins):
        return self


class Log:
    """A log of orders, sealed in segments of four entries."""

    def __init__(self, folder):
        self.store, self.folder, self.audit_tail, self.items = Objects(), folder, AuditTail(), []
        self.signer, self.keys = attester(folder, "registry"), trust(folder).keys()

    def order(self, model, text="why", seal=True):
        number = len(self.items) + 1
        item = AuditItem(
            at=f.after(number), source=f"{ORDERS}/{number}", kind="order", action="t", who="ana", model=model,
            about=f"o-{number}", reason=text,
        )  # fmt: skip
        self.items.append(item)
        self.audit_tail = append(self.audit_tail, [item], {})
        if seal and len(self.audit_tail.entries) == 4:
            self.seal()

    def seal(self):
        tail = self.audit_tail.model_copy(update={"sealing": len(self.audit_tail.entries)})
        parts = put_parts(self.store, self.signer, tail.segment, tail.entries)
        anchor = put_segment(self.store, self.signer, tail, None, parts)
        update = {"entries": (), "segment": tail.segment + 1, "anchor": anchor}
        self.audit_tail = self.audit_tail.model_copy(update=update)

    def read(self, model="a-bot"):
        return read_model(self.store, model, self.keys)

    def problems(self, model="a-bot"):
        """Return what a member of the model's team finds wrong."""
        reading = self.read(model)
        compare_with_events(reading, [item for item in self.items if item.model == model])
        return reading.problems

    def rewrite(self, number, change):
        """Replace the lines of a part of a-bot, with its own envelope."""
        key = part_key("a-bot", number)
        *lines, anchor = self.store.find(key).rstrip(b"\n").split(b"\n")
        self.store.versions_of[key] = [b"\n".join([*change(lines), anchor]) + b"\n"]


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path)
    for number in range(12):
        made.order(MODELS[number % 4])
        made.order("a-bot")
    return made


def test_a_team_reads_its_own_entries_with_their_place_in_the_log_and_no_other(log):
    reading = log.read()
    assert reading.problems == []
    assert {entry.model for entry in reading.entries} == {"a-bot"}
    assert [entry.about for entry in reading.entries] == [item.about for item in log.items if item.model == "a-bot"]
    assert [entry.index for entry in reading.entries] == [
        number for number, item in enumerate(log.items, 1) if item.model == "a-bot"
    ]
    assert log.problems() == log.problems("b-bot") == []
    assert not [key for key in log.store.versions_of if ".." in key or "//" in key], "no model is no folder"


def test_what_is_in_no_part_yet_waits_and_is_not_wrong(log):
    log.order("a-bot", seal=False)
    reading = log.read()
    waiting = compare_with_events(reading, [item for item in log.items if item.model == "a-bot"])
    assert [item.about for item in waiting] == [log.items[-1].about]
    assert reading.problems == []


def forge(lines):
    entry = json.loads(lines[0])
    return [canonical_json({**entry, "who": "eve"}), *lines[1:]]


@pytest.mark.parametrize(
    "change",
    [forge, lambda lines: lines[1:], lambda lines: lines[::-1], lambda lines: [*lines, lines[0]], lambda _: [b"{"]],
)
def test_a_forged_a_dropped_and_a_moved_entry_are_found(log, change):
    log.rewrite(2, change)
    assert log.problems()


def test_a_part_that_is_missing_moved_or_of_another_model_is_found(log):
    store, key = log.store, part_key("a-bot", 2)
    whole = dict(store.versions_of)
    del store.versions_of[key]
    assert any("is missing" in each for each in log.problems())
    store.versions_of = {**whole, key: whole[part_key("a-bot", 3)]}
    assert log.problems()
    store.versions_of = {**whole, part_key("a-bot", 1): whole[part_key("b-bot", 1)]}
    assert log.problems()


def test_a_part_that_is_hidden_or_replaced_is_named_and_its_first_version_read(log):
    for over in (None, b"other"):
        log.store.versions_of[part_key("a-bot", 1)] = [log.store.versions_of[part_key("a-bot", 1)][0], over]
        reading = log.read()
        assert [each for each in reading.problems if "hidden or replaced" in each]
        assert len(reading.problems) == 1
        assert len(reading.entries) == 15


def test_a_part_by_a_key_that_is_not_listed_is_found(log, tmp_path):
    stranger = attester(tmp_path / "stranger", "registry")
    log.signer = stranger
    for _ in range(4):
        log.order("a-bot")
    assert log.problems()


def test_a_registry_that_leaves_an_entry_of_a_team_out_is_found_by_the_events(tmp_path):
    log = Log(tmp_path)
    for _ in range(4):
        log.order("a-bot")
    log.order("a-bot", "left out", seal=False)
    left_out = log.audit_tail.entries[-1]
    log.audit_tail = AuditTail(segment=2, count=4, anchor=log.audit_tail.anchor)
    for _ in range(4):
        log.order("a-bot")
    assert log.read().problems == [], "all that is there is signed"
    assert [each for each in log.problems() if left_out.source in each and "left out" in each]


def test_an_entry_that_says_something_else_than_its_event_is_found(log):
    log.items[1] = log.items[1].model_copy(update={"reason": "another one"})
    assert [each for each in log.problems() if "says something else" in each]


def whole(log):
    reading = AuditReading(log.keys)
    for number in range(1, log.audit_tail.segment):
        reading.segment(log.store.find(segment_key(number)))
    assert reading.problems == []
    return reading


def test_who_reads_the_whole_log_finds_parts_that_say_something_else(log):
    own, reading = log.read(), whole(log)
    compare_with_log(own, reading, reading.parts)
    assert own.problems == []
    for number in range(1, len(own.anchors) + 1):
        del log.store.versions_of[part_key("a-bot", number)]
    other = append(AuditTail(), [log.items[1].model_copy(update={"who": "eve"})], {}).entries
    put_parts(log.store, log.signer, 1, other)
    forged = log.read()
    assert forged.problems == []
    compare_with_log(forged, reading, reading.parts)
    assert len(forged.problems) == 2


def test_a_registry_that_was_killed_before_the_segment_writes_the_same_parts_again(tmp_path):
    log = Log(tmp_path)
    for _ in range(3):
        log.order("a-bot", seal=False)
    first = put_parts(log.store, log.signer, 1, log.audit_tail.entries)
    assert put_parts(log.store, log.signer, 1, log.audit_tail.entries) == first
    assert len(log.read().anchors) == 1


def test_a_registry_that_goes_on_late_with_a_segment_writes_no_entry_twice(tmp_path):
    log = Log(tmp_path)
    log.order("b-bot")
    for _ in range(2):
        log.order("a-bot", seal=False)
    late = log.audit_tail
    log.seal()
    for _ in range(2):
        log.order("a-bot", seal=False)
    log.seal()
    written = dict(log.store.versions_of)
    named = put_parts(log.store, log.signer, late.segment, late.entries)
    assert log.store.versions_of == written
    assert named["a-bot"] == log.read().anchors[0], "it goes on with what the other one wrote"
    assert log.problems() == log.problems("b-bot") == []


def test_a_part_is_numbered_as_its_segment_and_counted_in_its_model(tmp_path):
    log = Log(tmp_path)
    for model in ("b-bot", "a-bot", "b-bot", "a-bot"):
        log.order(model, seal=False)
        log.seal()
    parts = [key for key in log.store.versions_of if "/a-bot/" in key]
    assert parts == [part_key("a-bot", 2), part_key("a-bot", 4)]
    assert log.problems() == []
    del log.store.versions_of[part_key("a-bot", 2)]
    assert any("part 1 is missing" in each for each in log.problems())


@pytest.mark.parametrize(
    ("removed", "says"), [([2], "part 2 is missing"), ([1], "part 1 is missing"), ([2, 3], "parts 2 to 3 are missing")]
)
def test_only_the_parts_that_are_missing_are_named(tmp_path, removed, says):
    log = Log(tmp_path)
    for _ in range(5 * 4):
        log.order("a-bot")
    for segment in removed:
        del log.store.versions_of[part_key("a-bot", segment)]
    (problem,) = log.read().problems
    assert says in problem


def test_a_forged_part_behind_a_missing_one_is_named(tmp_path):
    log = Log(tmp_path)
    for _ in range(5 * 4):
        log.order("a-bot")
    parts = log.store.versions_of
    del parts[part_key("a-bot", 2)]
    parts[part_key("a-bot", 4)] = parts[part_key("a-bot", 5)]
    assert any(part_key("a-bot", 4) in each for each in log.problems())


def test_a_restored_registry_that_seals_other_groups_writes_no_entry_twice(tmp_path):
    log = Log(tmp_path)
    for _ in range(2):
        log.order("a-bot", seal=False)
    log.seal()
    copied = log.audit_tail
    for _ in range(3):
        log.order("a-bot", seal=False)
    log.seal()  # while the backup, which has the record of the log already, copies objects
    keep = belongs({}, copied.segment)
    log.store.versions_of = {key: data for key, data in log.store.versions_of.items() if keep(key)}
    log.audit_tail = copied
    for events in (log.items[2:4], log.items[4:]):
        log.audit_tail = append(log.audit_tail, events, {})
        log.seal()
    assert [entry.about for entry in log.read().entries] == [item.about for item in log.items]
    assert log.problems() == []


def test_two_registries_write_no_part_twice(tmp_path):
    log = Log(tmp_path)
    for _ in range(3):
        log.order("a-bot", seal=False)
    log.store = Contested()
    with pytest.raises(Permanent, match="other entries"):
        put_parts(log.store, log.signer, 1, log.audit_tail.entries)


def test_a_line_is_as_the_log_writes_it(log):
    log.rewrite(1, lambda lines: [json.dumps(json.loads(lines[0]), indent=None).encode(), *lines[1:]])
    assert any("as the log writes it" in each for each in log.problems())
    assert line_of(log.read().entries[0])
