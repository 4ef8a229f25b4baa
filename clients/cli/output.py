"""Print results: for a terminal, as plain lines, as JSON."""

import contextlib
import json
import math
import sys
from collections.abc import Container, Mapping, Sequence
from typing import Any, NoReturn

import typer

from clients.cli.errors import EXIT_CODES, CommandError, Exit, print_error, warn

__all__ = [
    "EXIT_CODES",
    "CommandError",
    "Exit",
    "ended_by_interrupt",
    "fail",
    "is_terminal",
    "show_json",
    "show_line",
    "show_list",
    "show_pairs",
    "show_result",
    "show_table",
    "warn",
]


def fail(sentence: str, code: Exit = Exit.FAILED) -> NoReturn:
    """Print an error and end the command."""
    print_error(sentence, code)
    raise typer.Exit(int(code))


def ended_by_interrupt(*, following: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context that suppresses an interrupt of a command that follows without end.

    Another command has no result when it is interrupted: exit code 130.
    """
    return contextlib.suppress(*[KeyboardInterrupt] if following else [])


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def show_json(value: Any) -> None:
    """Print a value as one JSON document."""
    print(json.dumps(value, indent=2 if is_terminal() else None, ensure_ascii=False, default=str), flush=True)


def show_line(text: str = "") -> None:
    """Print a line without buffering."""
    print(text, flush=True)


def show_result(data: Any, *lines: str, as_json: bool) -> None:
    """Print the result of a command: as one JSON document, or as lines."""
    if as_json:
        show_json(data)
    for line in () if as_json else lines:
        show_line(line)


def show_list(
    data: Sequence[Any], columns: Sequence[str], rows: Sequence[Sequence[Any]], *, as_json: bool, empty: str = ""
) -> None:
    """Print a list: as one JSON document, or as a table; `empty` is the line in place of a table without rows."""
    if as_json:
        show_json(data)
    elif empty and not rows:
        show_line(empty)
    else:
        show_table(columns, rows)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, rare: Container[str] = ()) -> None:
    """Print rows as a table on a terminal, else as tab-separated lines.

    Args:
        columns: Titles of the columns.
        rows: Cells of each row; None is empty.
        rare: Titles of columns that a table without values in them omits.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not is_terminal():
        for row in texts:
            show_line("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [number for number, column in enumerate(columns) if column not in rare or has_value(texts, number)]
    for number in shown:
        table.add_column(columns[number], overflow="fold")  # names too long for the terminal are folded, never cut
    for row in texts:
        table.add_row(*(row[number] for number in shown))
    Console().print(table)


def has_value(rows: Sequence[Sequence[str]], number: int) -> bool:
    """Return whether a column has a value other than `-` in any row."""
    return any(row[number] not in {"", "-"} for row in rows)


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Print a line for each name and value."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        show_line(f"{name:<{width}}  {'' if value is None else value}")


def size_text(size: float) -> str:
    """Return a size in bytes as text with a binary unit, such as `1.5 GiB`."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(max(size, 1), 1024)), len(units) - 1)
    return f"{size / 1024**power:.{min(power, 1)}f} {units[power]}"
