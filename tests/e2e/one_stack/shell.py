"""A shell for the blocks of a page, on a running stack."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from testbed.stack import ROOT, Stack

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Shell:
    """Runs the blocks of a page in a folder, where `slipway` is the command and finds the stack."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self._groups: list[int] = []
        self._out, self._errors = folder / "out", folder / "errors"
        (folder / "bin").mkdir()
        command = folder / "bin/slipway"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m clients.cli.main "$@"\n')
        command.chmod(0o755)

    def __call__(self, script: str) -> str:
        """Run a script; return what was printed so far. What it left in the background goes on."""
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        with self._out.open("ab") as out, self._errors.open("ab") as errors:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder,
                stdout=out,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, "PATH": path, "SLIPWAY_STATE": str(self.stack.state)},
            )
        self._groups.append(process.pid)
        code = process.wait(400)
        assert code == 0, f"{script}\n{self.printed()}\n{self._errors.read_text()}\n{self.stack.tail()}"
        return self.printed()

    def printed(self) -> str:
        """Return what was printed so far."""
        return self._out.read_text()

    def end(self) -> None:
        """End what scripts left in the background."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


def shell_blocks(page: str, heading: str) -> list[str]:
    """Return the shell blocks of a section of a page of the repository."""
    section = (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return BLOCK.findall(section)
