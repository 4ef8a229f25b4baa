"""How often a test repeats what is drawn at random or killed: less in `make check`, far more in `make soak-tests`."""

import os

TIMES = float(os.environ.get("SLIPWAY_TEST_SOAK", "1"))
FUZZ_S = 60 * float(os.environ.get("SLIPWAY_TEST_FUZZ_MINUTES", "0"))
"""For how many seconds each entry gets hostile inputs; 0 for a fixed number of them."""
FUZZ_START = int(os.environ.get("SLIPWAY_TEST_FUZZ_START", "1"))
"""The number of the first input: another one draws other inputs, that of a defect draws it again."""
SEED = int(os.environ.get("SLIPWAY_TEST_SEED", "1"))
"""What `random` draws from in each test, and the soak in the test run; the same at each run if it is not set."""


def often(count: int) -> int:
    """Return a number of repetitions: `count`, times what a soak asks for."""
    return max(1, round(count * TIMES))
