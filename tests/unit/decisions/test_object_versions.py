"""Which version of an object counts, what lies over it, and when a lock is renewed."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from decisions.object_versions import ObjectVersion, Pinned, assess_object, candidates, is_renewed

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "blobs/a"
seconds = st.integers(0, 5)
others = st.lists(st.tuples(st.booleans(), seconds, st.integers(1, 3)), max_size=6)


def history(written):
    """Return versions as a store lists them, the oldest first; the last one is the latest."""
    ordered = sorted(enumerate(written), key=lambda each: each[1][1])
    last = ordered[-1][0] if ordered else None
    return [
        ObjectVersion(KEY, f"v{at}", marker, at == last, size, START + timedelta(seconds=second))
        for at, (marker, second, size) in ordered
    ]


def latest_of(versions):
    return next((each.version_id for each in versions if each.latest and not each.marker), None)


@given(others, others)
def test_readers_get_the_locked_version_again_once_what_lies_over_it_is_removed(before, after):
    """Whatever was written and deleted before and after it, in the same second or later."""
    versions = history([*((m, s, z) for m, s, z in before), (False, 5, 9), *((m, 5 + s, z) for m, s, z in after)])
    locked = next(each.version_id for each in versions if each.size == 9)
    assessed = assess_object(Pinned(KEY, (locked,)), latest_of(versions), versions)
    if assessed is None:
        assert latest_of(versions) == locked
        return
    assert not assessed.lost
    assert assessed.over, "what is reported can be removed"
    left = [each for each in versions if each.version_id not in assessed.over]
    assert locked in {each.version_id for each in left}
    assert max(left, key=lambda each: (each.modified, each.version_id == locked)).version_id == locked


@given(others, st.lists(st.sampled_from(["gone", "gone too"]), min_size=1, unique=True))
def test_an_object_whose_locked_version_is_not_there_is_lost(written, pins):
    versions = history(written)
    assessed = assess_object(Pinned(KEY, tuple(pins)), latest_of(versions), versions)
    assert assessed is not None
    assert assessed.lost
    assert assessed.over == ()


@given(others)
def test_what_was_written_first_is_tried_first_and_markers_and_other_sizes_never(written):
    versions = history(written)
    for size in (None, 1, 2, 3):
        chosen = candidates(versions, KEY, size)
        assert chosen == [
            each.version_id for each in versions if not each.marker and (size is None or each.size == size)
        ]
    assert candidates(versions, "blobs/ab", None) == []


def test_versions_of_other_keys_with_the_same_beginning_do_not_count():
    other = ObjectVersion(f"{KEY}b", "v0", marker=False, latest=True, size=1, modified=START)
    assessed = assess_object(Pinned(KEY, ("v0",)), None, [other])
    assert assessed is not None
    assert assessed.lost
    assert assessed.describe() == "blobs/a is lost"


@given(st.timedeltas(timedelta(), timedelta(days=400)), st.timedeltas(timedelta(seconds=1), timedelta(days=3650)))
def test_a_lock_is_renewed_once_less_than_half_of_its_period_is_left(left, period):
    now = START
    assert is_renewed(now + left, now, period) is (left < period / 2)
    assert is_renewed(None, now, period)
    if not is_renewed(now + left, now, period):
        assert not is_renewed(now + left, now - timedelta(days=1), period), "a clock that goes back renews nothing"
