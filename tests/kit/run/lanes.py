"""Distribute the test files over pytest-xdist's workers: what computes runs one file at a time, the rest beside it.

A file is the unit, so that its fixtures are made once; so is a folder whose files share a server or a model: they run in
the order of their names. The first worker takes the files that compute (torch, vLLM) one after the other; all others, and
the first one when it is through, take what is left: most of that waits for servers. Long files come first, so that no
worker ends long after the others.
"""

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

LANES: tuple[tuple[str, ...], ...] = (
    (
        "tests/real/test_triton_vllm.py",
        "tests/real/test_quantise_smollm2.py",
        "tests/real/test_merge_smollm2.py",
        "tests/integration/test_up_vllm.py",
        "tests/real/engine_facts",
        "tests/real/test_quantiser_service.py",
        "tests/real/test_quantise_worker.py",
        "tests/real/test_quantise_int4.py",
        "tests/real/test_own_text_stays_out.py",
    ),
)
"""Files and folders by lane, in the order in which they run; a path that is in no lane is for every worker."""
FIRST = (
    "tests/e2e/test_rollback.py",
    "tests/e2e/one_stack",
    "tests/real/test_triton_serving.py",
    "tests/chaos/test_servers_killed.py",
    "tests/integration/test_merger.py",
    "tests/e2e",
    "tests/world",
    "tests/integration/test_up.py",
    "tests/real",
    "tests/integration/test_monitor.py",
    "tests/integration/test_rollback_controller.py",
    "tests/integration/test_sources_release.py",
    "tests/integration",
    "tests/chaos",  # the soak: beside tests that no other process delays
    "tests/unit/merger",
    "tests/unit/registry",
    "tests/architecture",
    "tests/contract",
)
"""What is in no lane, in the order in which it is taken; the rest comes after it."""
SHARING = ("tests/contract/chart", "tests/e2e/one_stack", "tests/real/engine_facts", "tests/real/one_engine")
"""Folders whose files share one server, model or answer (a fixture of a package): one worker takes all of a folder."""


def unit_of(nodeid: str) -> str:
    """Return what a worker takes at once with a test: its file, or the folder of files that share."""
    file = nodeid.split("::", 1)[0]
    place = position(file, SHARING)
    return file if place is None else SHARING[place]


def position(file: str, paths: Sequence[str]) -> int | None:
    """Return the place of the first path that is the file or a folder above it; None if there is none."""
    above = {file, *map(str, PurePosixPath(file).parents)}
    return next((place for place, path in enumerate(paths) if path in above), None)


def lane_of(file: str) -> int | None:
    """Return the lane that a file is bound to."""
    return next((number for number, paths in enumerate(LANES) if position(file, paths) is not None), None)


def rank(file: str) -> tuple[int, str]:
    """Return the key by which files are taken, inside a lane or outside of all."""
    lane = lane_of(file)
    paths = FIRST if lane is None else LANES[lane]
    place = position(file, paths)
    return (len(paths) if place is None else place, file)


def choose(waiting: Sequence[str], worker: int, workers: int) -> str | None:
    """Return the file that a worker takes next; None when all that wait are for others.

    Args:
        waiting: Files that no worker has.
        worker: Index of this worker among those alive.
        workers: How many are alive; where there are fewer than lanes, the last worker has several.
    """
    own_lanes = {lane for lane in range(len(LANES)) if min(lane, workers - 1) == worker}
    bound = [file for file in waiting if lane_of(file) in own_lanes]
    free = [file for file in waiting if lane_of(file) is None]
    return min(bound or free, key=rank, default=None)


def pytest_xdist_setupnodes():
    """Limit numeric libraries in a worker to one thread: the other cores are for the tests beside it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_make_scheduler(config, log):
    """Use the lanes whenever the tests are distributed."""
    from tests.kit.run.lane_scheduling import LaneScheduling  # a run without workers does without xdist

    return LaneScheduling(config, log)
