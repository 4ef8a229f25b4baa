"""Tables of the command line: all columns for programs, on a terminal without rare ones that are empty."""

import os
import pty

import pytest

from clients.cli.output import has_value, show_table

COLUMNS, EMPTY = ("version", "serving", "settings"), [("v1", "active", "-"), ("v2", "-", None)]
SET = [*EMPTY, ("v3", "-", "tools: hermes")]


def on_a_terminal(monkeypatch, rows) -> list[list[str]]:
    """Return the words of each line that a terminal would show."""
    screen, device = pty.openpty()
    with os.fdopen(device, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        show_table(COLUMNS, rows, rare={"settings"})
        terminal.flush()
        printed = os.read(screen, 65536).decode()
    os.close(screen)
    return [line.split() for line in printed.splitlines() if line.strip()]


def test_a_terminal_shows_a_rare_column_only_with_a_value(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert on_a_terminal(monkeypatch, EMPTY) == [["version", "serving"], ["v1", "active"], ["v2", "-"]]
    assert on_a_terminal(monkeypatch, SET)[0] == list(COLUMNS)


@pytest.mark.parametrize("rows", [EMPTY, SET])
def test_programs_read_the_same_columns_always(capsys, rows):
    show_table(COLUMNS, rows, rare={"settings"})
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split("\t")) for line in lines] == [3] * len(rows)


def test_a_column_has_a_value_unless_each_of_its_cells_is_empty_or_a_dash():
    assert not has_value([["-"], [""]], 0)
    assert has_value([["-"], ["0"]], 0)
    assert not has_value([], 0)
