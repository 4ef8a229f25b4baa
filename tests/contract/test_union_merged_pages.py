"""The reliability page names tests that exist; no document that is merged by union has a line twice; the changelog is short."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.wiring import ROOT

PAGE = ROOT / "docs/reliability.md"
NAMED = re.compile(r"`((?:tests/[\w/]+/)?test_\w+\.py|tests/[\w/]+|(?:python )?(?:-m )?benchmarks[./]\w+(?:\.py)?)")

MOST_CHARACTERS = 480
"""Of an entry of the changelog: two or three lines of a terminal."""


def promises(text: str) -> list[list[str]]:
    """Return the rows of the tables of promises: promise, test or command, result."""
    tables = [part.partition("\n\n")[0] for part in text.split("\n| promise |")[1:]]
    rows = [line for table in tables for line in table.splitlines()[2:]]
    return [line.strip("| ").split(" | ") for line in rows]


def named_files(cell: str) -> list[Path]:
    """Return the files of the tests and benchmarks of a cell; a test without a folder is in that of the one before it."""
    files, folder = [], Path()
    for name in NAMED.findall(cell):
        path = Path(re.sub(r"^(?:python )?(?:-m )?", "", name))
        if path.name.startswith("benchmarks."):
            path = Path(path.name.replace(".", "/") + ".py")
        path = folder / path if len(path.parts) == 1 else path
        folder = path.parent
        files.append(path)
    return files


def doubled(text: str) -> list[str]:
    """Return the lines of a document that stand in it twice, and promises that do."""
    lines = [line for line in text.splitlines() if len(line) > 60]
    names = [promise for promise, *_ in promises(text)]
    return [line for line, count in Counter([*lines, *names]).items() if count > 1]


def test_each_promise_names_a_test_or_a_command_that_exists():
    rows = promises(PAGE.read_text())
    assert len(rows) > 50
    assert [row[0] for row in rows if len(row) != 3] == []
    assert [row[0] for row in rows if not named_files(row[1]) and "`make " not in row[1]] == []
    assert [str(path) for row in rows for path in named_files(row[1]) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", ["CHANGELOG.md", "docs/reliability.md"])
def test_a_merge_by_union_left_no_line_twice(page):
    assert doubled((ROOT / page).read_text()) == []


def sections(text: str) -> dict[str, list[str]]:
    """Return the entries of each kind of the unreleased version, each with its further lines."""
    _, _, unreleased = text.partition("## [Unreleased]")
    unreleased = unreleased.split("\n## ")[0]
    kinds = [part.partition("\n") for part in unreleased.split("\n### ")[1:]]
    assert len({kind for kind, _, _ in kinds}) == len(kinds), "a kind has two lists"
    return {kind: re.split(r"\n(?=- )", body.strip()) for kind, _, body in kinds}


def long_entries(text: str) -> list[str]:
    """Return the beginning of each entry that has more than `MOST_CHARACTERS`."""
    return [entry[:60] for entries in sections(text).values() for entry in entries if len(entry) > MOST_CHARACTERS]


def beginnings(text: str) -> list[str]:
    """Return the first characters that two entries of the unreleased version have in common: versions of one entry."""
    counts = Counter(entry[:48] for entries in sections(text).values() for entry in entries)
    return [begin for begin, count in counts.items() if count > 1]


def test_the_changelog_has_one_list_per_kind_with_short_entries():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert beginnings(text) == []
    assert {"Added", "Changed", "Fixed"} <= sections(text).keys()
    assert long_entries(text) == []


def test_what_is_wrong_is_found():
    cell = "`tests/unit/fuzz`, `tests/real/test_stalls.py`, `test_gone.py`, `python -m benchmarks.bench_gone`"
    expected = ["tests/unit/fuzz", "tests/real/test_stalls.py", "tests/real/test_gone.py", "benchmarks/bench_gone.py"]
    assert [str(path) for path in named_files(cell)] == expected
    row = "| A rollback is quick | `tests/a/test_b.py` | it is |"
    table = f"\n| promise | test | result |\n|---|---|---|\n{row}\n"
    assert doubled(table) == []
    assert long_entries(f"## [Unreleased]\n\n### Fixed\n- a\n  b\n- {'c' * MOST_CHARACTERS}\n\n## [0.1.0]\n") == [
        "- " + "c" * 58
    ]
    assert beginnings(f"## [Unreleased]\n### Fixed\n- {'d' * 60}\n- {'d' * 61}\n") == ["- " + "d" * 46]
    with pytest.raises(AssertionError, match="two lists"):
        sections("## [Unreleased]\n### Fixed\n- a\n\n### Fixed\n- b\n")
    assert doubled(f"{table}{row.replace('it is', 'it was')}\n") == ["A rollback is quick"]
