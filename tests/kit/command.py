"""Runs `slipway` in the process of a test."""

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout

import pytest

from clients.cli.main import main


def run_command(variables: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit status of `slipway` with these variables, what it printed, and what it complained of."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr("sys.argv", ["slipway", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()
