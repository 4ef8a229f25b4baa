"""Run commands beside the tests, one after the other, and count their exit codes in the run's: `--beside "make lint"`."""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, and what it printed."""

    command: str
    code: int
    output: str

    @property
    def line(self) -> str:
        """Return how it ended."""
        return f"{self.command}: {f'failed with exit code {self.code}' if self.code else 'passed'}"


class Beside:
    """Commands in the background."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands
        self._ended: list[Ended] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._stops = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for command in self._commands:
            if self._stops:
                return
            with tempfile.TemporaryFile() as output:
                self._process = subprocess.Popen(
                    command, shell=True, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
                code = self._process.wait()
                output.seek(0)
                self._ended.append(Ended(command, code, output.read().decode(errors="replace")))

    def _stop(self) -> None:
        self._stops = True
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        """Wait for the commands; when one fails, so does the run."""
        if session.exitstatus == pytest.ExitCode.INTERRUPTED:
            self._stop()
        self._thread.join()
        not_run = self._commands[len(self._ended) :]
        self._ended += [Ended(command, 1, "It was not run to its end.") for command in not_run]
        if failed := [each for each in self._ended if each.code]:
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            reporter.stats["check failed"] = failed  # counted in the last line as well
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self):
        """End the command if the run ends before its summary."""
        self._stop()

    def pytest_terminal_summary(self, terminalreporter):
        """Show what a command that failed printed, and the last line of one that passed."""
        for each in self._ended:
            terminalreporter.section(each.line, red=bool(each.code), green=not each.code)
            terminalreporter.line(each.output if each.code else each.output.strip().rpartition("\n")[2])


def pytest_addoption(parser):
    """Declare the option."""
    parser.addoption(
        "--beside", action="append", metavar="COMMAND", help="run a command beside the tests; its failure fails the run"
    )


def pytest_configure(config):
    """Start the commands, in the process that reports."""
    commands = config.getoption("--beside")
    if commands and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Beside(commands), "beside")
