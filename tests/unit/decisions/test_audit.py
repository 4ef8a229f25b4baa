"""The chain of the audit log: whatever is altered, removed, moved, doubled or cut off is found, and named."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import FACTS, ApprovalGranted, AuditRecorded, CheckpointReady, OrderRefused
from contracts.provenance.audit import GENESIS, AuditItem, AuditTail
from contracts.services import EVENTS, FROM_OUTSIDE, ORDERS, stream_of
from decisions.sealed_log import audit
from decisions.sealed_log.audit import SOURCES, append, assess_chain, digest_of_entry, is_due, seal
from testbed import factories as f

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
ITEMS = st.lists(
    st.builds(
        AuditItem,
        at=st.integers(0, 10_000).map(f.after),
        source=NAMES,
        kind=st.sampled_from(["order", "change", "result"]),
        action=NAMES,
        who=NAMES,
        about=NAMES,
        details=st.dictionaries(NAMES, st.integers() | NAMES, max_size=3),
    ),
    min_size=2,
    max_size=12,
)


def chained(items):
    return append(AuditTail(), items, {"orders": len(items)})


def wrong(entries):
    return assess_chain(entries, index=0, head=GENESIS)


@given(ITEMS)
def test_a_chain_that_was_written_holds_and_continues(items):
    tail = chained(items)
    assert wrong(tail.entries) is None
    assert (tail.count, tail.head) == (len(items), digest_of_entry(tail.entries[-1]))
    assert AuditTail.model_validate_json(tail.model_dump_json()) == tail
    middle = append(append(AuditTail(), items[:1], {}), items[1:], {"orders": len(items)})
    assert middle.entries == tail.entries


@given(ITEMS, st.data())
def test_an_entry_that_was_altered_removed_moved_or_doubled_is_found_and_named(items, data):
    entries = list(chained(items).entries)
    at = data.draw(st.integers(0, len(entries) - 2))
    altered = [*entries]
    altered[at] = entries[at].model_copy(update={"who": entries[at].who + "x"})
    assert f"Entry {at + 2} follows" in wrong(altered)
    removed = entries[:at] + entries[at + 1 :]
    assert f"entry {at + 1} is expected here" in wrong(removed)
    moved = [*entries]
    moved[at], moved[at + 1] = moved[at + 1], moved[at]
    assert f"entry {at + 1} is expected here" in wrong(moved)
    assert "is there twice or moved" in wrong([*entries[: at + 1], *entries[at:]])


def test_a_segment_is_due_by_count_and_by_age_and_not_twice():
    item = AuditItem(at=f.after(0), source="s", kind="order", action="a")
    short, full = chained([item]), chained([item] * audit.SEGMENT_ENTRIES)
    assert not is_due(AuditTail(), f.after(1e6))
    assert not is_due(short, f.after(audit.SEGMENT_S - 1))
    assert is_due(short, f.after(audit.SEGMENT_S))
    assert is_due(full, f.after(0))
    sealing = full.model_copy(update={"sealing": len(full.entries)})
    assert not is_due(sealing, f.after(1e6))
    later = append(sealing, [item], {})
    sealed = seal(later, f.digest("anchor"))
    assert (sealed.segment, sealed.sealing, len(sealed.entries), sealed.count) == (2, 0, 1, len(full.entries) + 1)
    assert sealed.entries[0].previous == full.head


def test_every_order_and_announcement_is_a_source_and_every_one_of_them_is_an_entry():
    streams = {source.stream for source in SOURCES if source.whole and source.subject == ">"}
    assert {stream_of(fact) for fact in FROM_OUTSIDE} <= streams
    for fact in FROM_OUTSIDE:
        event = f.event(fact)
        item = audit.item_of(event, f"{fact.TYPE}.{f.MODEL}.ana", "s/1", f.after(5))
        assert item.who == "ana"
        assert item.kind == (
            "change" if fact is AuditRecorded else "announcement" if fact is CheckpointReady else "order"
        )
        assert item.at == f.after(5), "the server's time, not the publisher's"
        assert item.about
    assert all(stream_of(fact) == EVENTS for fact in audit.RESULTS)
    for fact in audit.RESULTS:
        item = audit.item_of(f.event(fact), f"{fact.TYPE}.{f.MODEL}.registry", "s/1", f.after(5))
        assert item.kind == "result"
        assert item.result
        assert item.about


def test_who_is_what_the_subject_says_and_never_what_the_body_says():
    event = f.event(ApprovalGranted)
    assert audit.item_of(event, f"{event.type}.{event.subject}.ben", "s/1", f.after(0)).who == "ben"
    assert audit.item_of(event, f"{event.type}.{event.subject}", "s/1", f.after(0)).who == ""
    assert audit.sender("slipway.approval.granted.v1.support-bot.ben.x", "slipway.approval.granted.v1") == ""
    assert audit.sender("other.support-bot.ben", "slipway.approval.granted.v1") == ""


def test_a_refusal_names_the_order_with_its_code():
    event = f.event(OrderRefused)
    item = audit.item_of(event, event.nats_subject, "s/1", f.after(0))
    assert (item.about, item.result, item.code) == (event.data.order_id, "refused", event.data.code)


def test_large_details_are_kept_as_their_digest():
    fact = f.fact(AuditRecorded, details={"text": "x" * 9000})
    item = audit.item_of(f.event(fact), "s", "s/1", f.after(0))
    assert item.details["bytes"] > 9000
    assert len(audit.line_of(chained([item]).entries[0])) < 2000


def test_all_types_of_facts_have_a_name_of_four_parts():
    assert {len(type_.split(".")) for type_ in FACTS if stream_of(FACTS[type_]) == ORDERS} == {4}
