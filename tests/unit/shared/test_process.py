"""How much memory a process can have, read from files laid out as kernels and container engines do it."""

import psutil
import pytest

from shared.runtime.process import available_memory_bytes, memory_bytes

GIB = 1024**3
MACHINE = psutil.virtual_memory().total
UNLIMITED = "9223372036854771712\n"


def laid_out(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": f"{GIB}\n"}, GIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, MACHINE),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/a/memory.max": f"{GIB}\n",
            },
            GIB,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, GIB),
        (
            {
                "proc/self/cgroup": "2:cpu:/x\n1:memory,hugetlb:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{GIB}\n",
            },
            GIB,
        ),
        (
            {"proc/self/cgroup": "1:memory:/docker/1f2e\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"},
            GIB,
        ),
        ({"proc/self/cgroup": "1:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED}, MACHINE),
        ({"proc/self/cgroup": "2:cpu:/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"}, MACHINE),
    ],
    ids=[
        "no groups",
        "v2",
        "v2 without a limit",
        "v2 within a smaller one",
        "v2 in a container",
        "v1",
        "v1 in a container",
        "v1 without a limit",
        "another controller",
    ],
)
def test_memory_is_the_machines_or_what_control_groups_leave_of_it(tmp_path, files, expected):
    assert memory_bytes(laid_out(tmp_path, files)) == expected


def test_memory_of_this_process():
    assert 0 < memory_bytes() <= MACHINE


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 20 * GIB),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
                "sys/fs/cgroup/a/memory.current": f"{5 * GIB}\n",
                "sys/fs/cgroup/a/memory.stat": f"anon {3 * GIB}\nactive_file {GIB}\ninactive_file {GIB}\n",
            },
            5 * GIB,
        ),
        (
            {
                "proc/self/cgroup": "1:memory:/docker/1f2e\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{8 * GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{5 * GIB}\n",
                "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {2 * GIB}\n",
            },
            5 * GIB,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n"}, 8 * GIB),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.current": f"{5 * GIB}\n",
            },
            20 * GIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
                "sys/fs/cgroup/a/memory.current": f"{9 * GIB}\n",
            },
            0,
        ),
    ],
    ids=["no groups", "v2", "v1 in a container", "no usage", "no limit", "beyond the limit"],
)
def test_available_memory_is_what_the_limit_leaves_beside_what_is_used_except_for_cached_files(
    tmp_path, files, expected
):
    assert available_memory_bytes(laid_out(tmp_path, files), machine=20 * GIB) == expected
