"""Run a command beside the tests, and count its exit code in theirs: `--beside "make lint"`."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


class Beside:
    """One command in the background, its output in a file until the end."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._output = tempfile.NamedTemporaryFile(prefix="beside-", suffix=".log")  # noqa: SIM115
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            command, shell=True, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._line = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        """Wait for the command; when it fails, so does the run."""
        if session.exitstatus == pytest.ExitCode.INTERRUPTED:
            os.killpg(self._process.pid, signal.SIGTERM)
        code = self._process.wait()
        if code:
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            reporter.stats["check failed"] = [self]  # named in the last line as well
        if code and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._line = f"{self._command}: {f'failed with exit code {code}' if code else 'passed'}"

    def pytest_unconfigure(self):
        """End the command if the run ends before its summary."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)

    def pytest_terminal_summary(self, terminalreporter):
        """Show what the command printed if it failed, else that it passed."""
        failed = self._process.returncode != 0
        terminalreporter.section(self._line, red=failed, green=not failed)
        if failed:
            terminalreporter.write(Path(self._output.name).read_text(errors="replace"))
        self._output.close()


def pytest_addoption(parser):
    """Declare the option."""
    parser.addoption("--beside", metavar="COMMAND", help="run a command beside the tests; its failure fails the run")


def pytest_configure(config):
    """Start the command, in the process that reports."""
    command = config.getoption("--beside")
    if command and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Beside(command), "beside")
