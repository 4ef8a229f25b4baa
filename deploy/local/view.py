"""Print the merged logs of all parts, each line with the coloured name of its part."""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
FOREIGN = ("nats", "s3", "triton")
"""Third-party parts, by the beginning of their name."""
PROBLEM = re.compile(r"^[WEF]\d{4} |\[(WRN|ERR|FTL)\]|\b(panic|fatal|error)\b", re.IGNORECASE)
NOISE = re.compile(r"pinned system memory|CudaDriverHelper|worker stream|--auth")
"""Hidden lines of third-party parts, beside all lines that are no problems."""
BUS = "nats"
BUS_NOISE = re.compile(
    r"connect to route|Waiting for routing|contact with a meta leader|is not current|[Hh]ealth check|blocking snapshot"
    r"|Router connection closed|store is closed|system account not setup"
)
"""Hidden lines of the bus: messages of cluster servers that start, catch up or end."""
SHOWN_KEYS = ("model", "release", "variant", "code", "reason", "error")
NAME_WIDTH = 20
POLL_S = 0.1


def render_line(part: str, line: str) -> str | None:
    """Return a log line shortened for the terminal, or None if it is not shown."""
    line = line.rstrip()
    noise = NOISE.search(line) or (part.startswith(BUS) and BUS_NOISE.search(line))
    if not line or (part.startswith(FOREIGN) and (noise or not PROBLEM.search(line))):
        return None
    if line.startswith("{"):
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            return line
        return _render_record(record)
    return line


def _render_record(record: dict[str, Any]) -> str | None:
    level = str(record.get("level", "info"))
    if level == "debug":
        return None
    event = record.get("event") or record.get("message") or ""
    shown = " ".join(f"{key}={record[key]}" for key in SHOWN_KEYS if record.get(key))
    prefix = "" if level == "info" else f"{level.upper()} "
    return f"{prefix}{event} {shown}".rstrip()


class View:
    """Prints the logs of the parts and the messages of the supervisor."""

    def __init__(self, *, quiet: bool, out: TextIO | None = None) -> None:
        self._quiet = quiet
        self._out = out or sys.stdout
        self._colour_of: dict[str, str] = {}
        self._read_up_to: dict[Path, int] = {}

    def print_line(self, part: str, text: str) -> None:
        """Print a line under the name of a part; ignore a full or closed output."""
        with contextlib.suppress(OSError, ValueError):
            self._print(part, text)

    def _print(self, part: str, text: str) -> None:
        if self._out.isatty():
            from rich.console import Console
            from rich.text import Text

            colour = self._colour_of.setdefault(part, COLOURS[len(self._colour_of) % len(COLOURS)])
            Console(file=self._out, highlight=False, soft_wrap=True).print(
                Text.assemble((f"{part:<{NAME_WIDTH}}", colour), " ", text)
            )
        else:
            print(f"{part:<{NAME_WIDTH}} {text}", file=self._out, flush=True)

    def begin_at_end(self, logs: Iterable[Path]) -> None:
        """Skip the log lines of earlier runs."""
        self._read_up_to = {log: log.stat().st_size if log.exists() else 0 for log in logs}

    async def follow(self) -> None:
        """Print new lines of all logs until cancelled."""
        while not self._quiet:
            self.print_new()
            await asyncio.sleep(POLL_S)

    def print_new(self) -> None:
        """Print the complete lines added since the last call."""
        if self._quiet:
            return
        for log, start in list(self._read_up_to.items()):
            if not log.exists() or log.stat().st_size == start:
                continue
            with log.open("rb") as file:
                file.seek(start if log.stat().st_size > start else 0)
                data = file.read()
                end = file.tell()
            complete, _, rest = data.rpartition(b"\n")
            self._read_up_to[log] = end - len(rest)
            for line in complete.decode(errors="replace").splitlines():
                if (text := render_line(log.stem, line)) is not None:
                    self.print_line(log.stem, text)


def last_lines(log: Path, count: int = 15) -> list[str]:
    """Return the last lines of a log."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return file.read().decode(errors="replace").splitlines()[-count:]
