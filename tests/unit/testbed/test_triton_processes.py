"""The processes of a tritonserver, by their environment."""

from pathlib import Path

from testbed.triton import find_marked


def test_marked_processes_are_found_by_their_run_folder(tmp_path):
    for pid, variables in ((7, b"A=1\0SLIPWAY_TRITON=/run\0"), (8, b"SLIPWAY_TRITON=/run2\0"), (9, b"")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "environ").write_bytes(variables)
    (tmp_path / "self").mkdir()
    (tmp_path / "10").mkdir()
    assert list(find_marked(Path("/run"), proc=tmp_path)) == [7]
