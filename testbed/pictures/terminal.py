"""Commands as a terminal shows them: run for real, recorded with their colours, drawn as a page."""

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass, field
from typing import Final

from rich.color import parse_rgb_hex
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from testbed.stack import ROOT, Stack

COLUMNS, LINES = 118, 60
LONGEST_S: Final = 300
CURSOR: Final = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhl]")
"""Moves of the cursor: what a progress bar draws and takes away again."""
PALETTE: Final = ("#3a4654", "#ff8f86", "#6fd19b", "#f0b95b", "#6cb2f7", "#c9a0ff", "#6ed6de", "#e7ecf2")
COLOURS: Final = TerminalTheme((21, 27, 35), (231, 236, 242), [parse_rgb_hex(colour[1:]) for colour in PALETTE])
PAGE: Final = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #0e1319; display: inline-block; }}
pre {{ margin: 0; padding: 18px 22px; background: #151b23; color: #e7ecf2; display: inline-block; }}
pre {{ font: 14px/1.4 "DejaVu Sans Mono", monospace; }}
</style><pre>{code}</pre>"""


@dataclass
class Recording:
    """What was typed and what came back.

    Attributes:
        stack: Where the commands run.
        lines: The terminal's lines, with their colours as escape sequences.
    """

    stack: Stack
    lines: list[str] = field(default_factory=list)

    def run(self, *arguments: str) -> None:
        """Run a command of `slipway` on a terminal, and keep what it prints."""
        self.lines.append(f"\x1b[1;32m$\x1b[0m \x1b[1mslipway {shlex.join(arguments)}\x1b[0m")
        printed = _on_a_terminal([sys.executable, "-m", "clients.cli.main", *arguments], self.stack)
        rows = [row.rpartition("\r")[2] for row in CURSOR.sub("", printed).replace("\r\n", "\n").split("\n")]
        self.lines += [row for row in rows if row.strip()] + [""]

    def page(self) -> str:
        """Return the terminal as a page."""
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text.from_ansi("\n".join(self.lines).rstrip()), soft_wrap=True)
        return console.export_html(theme=COLOURS, inline_styles=True, code_format=PAGE)


def _on_a_terminal(command: list[str], stack: Stack) -> str:
    """Return what a command prints on a terminal of its own.

    Raises:
        RuntimeError: It failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "SLIPWAY_STATE": str(stack.state)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        printed += part
    os.close(ours)
    if process.wait(LONGEST_S):
        raise RuntimeError(f"{command} ended with {process.returncode}: {printed.decode()}")
    return printed.decode()
