"""What a backend measures of its processes: on real processes, without Triton."""

import json
import os
import subprocess
import sys

from deploy.backends import memory_report

MIB = 2**20
HOLDER = "import sys; held = bytearray(b'x') * (int(sys.argv[1]) * 2**20); print('ready', flush=True); sys.stdin.read()"


def holding(mib):
    """Start a process that holds so much memory, and return it once it does."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", HOLDER, str(mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_counts_with_all_below_it_and_one_that_has_ended_counts_nothing():
    with holding(64) as child:
        assert child.pid in memory_report.list_family(os.getpid())
        assert 64 * MIB <= memory_report.measure([child.pid]) < 128 * MIB
        child.kill()
    assert memory_report.measure([child.pid]) == 0


def test_the_file_is_replaced_as_a_whole_and_a_folder_that_is_gone_is_no_error(tmp_path):
    assert memory_report.write(tmp_path, 3)
    assert memory_report.write(tmp_path, 5)
    assert json.loads((tmp_path / memory_report.NAME).read_text()) == {"peak_bytes": 5}
    assert [path.name for path in tmp_path.iterdir()] == [memory_report.NAME]
    assert not memory_report.write(tmp_path / "gone", 5)
