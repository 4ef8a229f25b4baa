"""The kit's plugin that stops the search for garbage where it does harm."""

import subprocess
import sys

FAILING = '''
import gc
import traceback


class Noisy:
    """Garbage that formats a traceback as it goes, as an asyncio task with an unread exception does, and leaves more."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        Noisy()
        try:
            return self.missing.name + self.missing.name
        except AttributeError:
            return traceback.format_exc()


def test_that_fails():
    gc.set_threshold(20, 1, 1)
    Noisy()
    assert sum([1, 2, 3]) == sum([4, 5, 6])
'''


IMPORTING = """
import pytest

pytest.register_assert_rewrite("late")


def pytest_sessionfinish():
    import late
"""
"""A plugin that imports a module for the summary, as that of hypothesis does; pytest parses it."""


def test_a_failure_is_reported_though_garbage_formats_tracebacks_meanwhile(tmp_path):
    """Python 3.11 fails when source is parsed while it parses source, which ended the worker, and the run with it."""
    (tmp_path / "test_noisy.py").write_text(FAILING)
    (tmp_path / "conftest.py").write_text(IMPORTING)
    (tmp_path / "late.py").write_text("".join(f"NAME_{number} = [{number}]\n" for number in range(200)))
    arguments = ["-p", "tests.kit.run.garbage", "-p", "no:asyncio", "-c", "/dev/null", "--rootdir", tmp_path]
    command = [sys.executable, "-m", "pytest", *arguments, tmp_path / "test_noisy.py"]
    run = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=120)
    output = run.stdout[-2000:] + run.stderr[-2000:]
    assert run.returncode == 1, output
    assert "1 failed" in run.stdout.splitlines()[-1], output
    assert "INTERNALERROR" not in run.stdout
