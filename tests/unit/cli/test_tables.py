"""Tables of the command line: all columns for programs, on a terminal without rare ones that are empty."""

import pytest

from clients.cli.output import has_value, show_table

COLUMNS, EMPTY = ("version", "serving", "settings"), [("v1", "active", "-"), ("v2", "-", None)]
SET = [*EMPTY, ("v3", "-", "tools: hermes")]


@pytest.mark.parametrize("rows", [EMPTY, SET])
def test_programs_read_the_same_columns_always(capsys, rows):
    show_table(COLUMNS, rows, rare={"settings"})
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split("\t")) for line in lines] == [3] * len(rows)


def test_a_column_has_a_value_unless_each_of_its_cells_is_empty_or_a_dash():
    assert not has_value([["-"], [""]], 0)
    assert has_value([["-"], ["0"]], 0)
    assert not has_value([], 0)
