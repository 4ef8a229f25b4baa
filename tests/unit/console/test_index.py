"""The index: the same events always lead to the same rows, however often any of them is applied."""

import contextlib
import sqlite3
import threading
from datetime import timedelta, timezone
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import facts as f
from contracts.services import EVENTS, INBOX, ORDERS, stream_of
from services.console.adapters.histograms import percentile_ms
from services.console.adapters.index import WINDOWS_KEPT, Index
from services.console.adapters.index_file import IndexInUseError, is_current
from services.console.domain.apply import apply
from services.console.domain.rows import SCHEMA, TABLES, instant, row
from services.console.domain.titles import LONGEST, title_of
from testbed import factories
from testbed.story import WINDOW_S, Story, fleet, histogram
from tests.unit.console.world import NOW, log_of, write

STORY = log_of(fleet(NOW))


def content(index: Index) -> dict:
    return {table: index.read(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in TABLES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    index = Index(tmp_path_factory.mktemp("whole") / "index.db")
    write(index, STORY)
    yield content(index)
    index.close()


@settings(max_examples=8, deadline=None)
@given(prefix=st.integers(0, len(STORY)), again=st.integers(0, len(STORY)))
def test_a_prefix_that_is_applied_twice_changes_nothing(tmp_path_factory, whole, prefix, again):
    index = Index(tmp_path_factory.mktemp("again") / "index.db")
    write(index, STORY[:prefix])
    write(index, STORY[:again])
    write(index, STORY)
    assert content(index) == whole
    index.close()


def test_every_sample_of_every_event_becomes_rows():
    for kind in f.FACTS.values():
        rows = apply("SLIPWAY_EVENTS", 1, factories.event(kind), percentile_ms)
        assert all(len(entry.key) == len(TABLES[entry.table][0]) for entry in rows)


@pytest.mark.parametrize(
    ("kind", "others", "rows"),
    [(f.CanaryAssessed, {"weight_ratio": 0.5}, 2), (f.ShadowAssessed, {"share_ratio": 0.5}, 1)],
)
def test_of_the_assessments_of_a_release_only_the_last_of_each_share_is_kept(kind, others, rows):
    first = factories.event(kind, correlationid="r-0123456789abcdef-1")
    other = first.model_copy(update={"data": first.data.model_copy(update=others)})
    applied = [
        apply("SLIPWAY_EVENTS", number, event, percentile_ms) for number, event in enumerate((first, other, first), 1)
    ]
    assert len({entry.key for of_event in applied for entry in of_event if entry.table == "release_events"}) == rows


def test_an_index_of_another_schema_is_built_again(tmp_path):
    index = Index(tmp_path / "index.db")
    write(index, STORY[:5])
    assert index.positions()
    index.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.db", isolation_level=None)) as file:
        file.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    again = Index(tmp_path / "index.db")
    assert again.positions() == {}
    again.close()


def test_a_damaged_index_is_built_again(tmp_path):
    (tmp_path / "index.db").write_bytes(b"SQLite format 3\0" + b"x" * 4096)
    index = Index(tmp_path / "index.db")
    assert index.positions() == {}
    index.close()


def test_rows_and_position_are_written_together_or_not_at_all(tmp_path):
    index = Index(tmp_path / "index.db")
    write(index, STORY[:3])
    before = content(index), index.positions()
    broken = row("events", stream="SLIPWAY_EVENTS", sequence=99, id="x")
    with pytest.raises(KeyError):
        index.write("SLIPWAY_EVENTS", 99, "first", [(99, broken), (99, broken.__class__("nowhere", (), ()))])
    assert (content(index), index.positions()) == before
    index.close()


def test_only_the_newest_windows_of_a_target_are_kept(tmp_path):
    index, story = Index(tmp_path / "index.db"), Story(NOW)
    write(index, log_of([*story.release("m", 1, 1), *story.windows("m", WINDOWS_KEPT + 30, ttft_ms=100, requests=9)]))
    (kept,) = index.read("SELECT count(*) AS n, max(ended_at) AS last FROM windows")
    assert kept["n"] == WINDOWS_KEPT
    assert kept["last"] == instant(story.moment)
    index.close()


def test_windows_during_a_canary_stay(tmp_path):
    index, story = Index(tmp_path / "index.db"), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2)]
    during = len([event for event in events if isinstance(event.data, f.WindowSummarised)]) // 2
    story.wait(WINDOW_S * (WINDOWS_KEPT + 40))
    write(index, log_of([*events, *story.windows("m", WINDOWS_KEPT + 30, ttft_ms=100, requests=9)]))
    count = "SELECT count(*) AS n FROM windows WHERE target = ?"
    assert index.read(count, ("m.v2.int8",))[0]["n"] == WINDOWS_KEPT + during
    index.close()


def test_a_column_that_no_table_has_is_refused():
    with pytest.raises(ValueError, match="has no colour"):
        row("actives", model="m", colour="red")
    with pytest.raises(KeyError):
        row("actives", since="now")


def test_times_sort_as_text_whatever_their_zone():
    east = NOW.astimezone(tz=timezone(timedelta(hours=9)))
    assert instant(east) == instant(NOW) == "2026-11-27T02:00:00.000Z"
    assert instant(NOW + timedelta(milliseconds=1)) > instant(NOW)


def test_percentiles_need_enough_entries_and_a_real_histogram():
    assert percentile_ms(histogram(200.0, 40), 95.0) == pytest.approx(256, rel=0.05)
    assert percentile_ms(histogram(200.0, 19), 95.0) is None
    assert percentile_ms("", 95.0) is None
    assert percentile_ms("not a histogram", 95.0) is None


@pytest.mark.parametrize("fact", [fact for fact in f.FACTS.values() if stream_of(fact) in (INBOX, ORDERS, EVENTS)])
def test_every_event_says_something(fact):
    shown = fact in (f.WindowSummarised, f.ReleaseProgressed)  # a chart or a page shows what it says
    assert shown or title_of(factories.event(factories.fact(fact)))


def test_a_title_is_one_line_of_limited_length():
    event = factories.event(factories.fact(f.RollbackOrdered, reason="a\nb " + "x" * 2000))
    title = title_of(event)
    assert "\n" not in title
    assert len(title) == LONGEST


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(1, 86_400_000_000), min_size=20, max_size=60), percentile=st.sampled_from([50.0, 95.0])
)
def test_percentiles_are_those_of_the_library(values, percentile):
    sketch = HdrHistogram(1, 86_400_000_000, 3)
    for value in values:
        sketch.record_value(value)
    expected = sketch.get_value_at_percentile(percentile) / 1000
    assert percentile_ms(sketch.encode().decode(), percentile) == expected


def damage(path):
    """Overwrite the pages behind the first ones, as a failing disk does; the schema can still be read."""
    content = bytearray(path.read_bytes())
    content[40 * 4096 :] = b"\xff" * (len(content) - 40 * 4096)
    path.write_bytes(content)


@pytest.fixture
def damaged(tmp_path):
    index = Index(tmp_path / "index.db")
    write(index, STORY)
    index.close()
    damage(tmp_path / "index.db")
    index = Index(tmp_path / "index.db")
    yield index
    index.close()


def test_an_index_with_damaged_pages_is_built_again_at_the_next_start(damaged, whole):
    assert damaged.positions() == {}
    write(damaged, STORY)
    assert content(damaged) == whole


def test_another_process_is_refused_and_takes_nothing_away(tmp_path):
    index = Index(tmp_path / "index.db")
    write(index, STORY[:5])
    before = index.positions()
    with pytest.raises(IndexInUseError, match="CONSOLE_INDEX"):
        Index(tmp_path / "index.db", wait_s=0)
    assert index.positions() == before
    index.close()
    Index(tmp_path / "index.db", wait_s=0).close()


def test_a_locked_file_is_not_taken_for_a_damaged_one(tmp_path):
    index = Index(tmp_path / "index.db")
    write(index, STORY[:5])
    index.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            is_current(tmp_path / "index.db", SCHEMA)
    again = Index(tmp_path / "index.db")
    assert again.positions()
    again.close()


def test_threads_that_end_leave_no_connection_open(tmp_path):
    index = Index(tmp_path / "index.db")
    write(index, STORY[:20])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(60):
        thread = threading.Thread(target=index.about([f"m{number}"]).read, args=("SELECT * FROM events",))
        thread.start()
        thread.join()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 3
    index.close()
