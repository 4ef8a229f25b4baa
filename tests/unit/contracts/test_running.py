"""Versions that processes report: `slipway doctor` prints them in a terminal."""

import pytest
from pydantic import ValidationError

from contracts.running import RunningReport
from contracts.version import VERSION


def test_a_version_of_ours_is_one():
    assert RunningReport(process="0" * 16, version=VERSION).version == VERSION
    assert RunningReport(process="0" * 16, version="1.2.0rc1+abc_d-e").version == "1.2.0rc1+abc_d-e"


@pytest.mark.parametrize("version", ["", "\x1b[2J", "1.0\n", "1.0 ok", "9" * 101, "é"])
def test_what_a_terminal_may_obey_is_no_version(version):
    with pytest.raises(ValidationError):
        RunningReport(process="0" * 16, version=version)
