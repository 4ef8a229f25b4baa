"""How often a test repeats what is drawn at random or killed: as usual in `make test`, many times more in `make soak`."""

import os

TIMES = int(os.environ.get("SLIPWAY_TEST_SOAK", "1"))


def often(count: int) -> int:
    """Return a number of repetitions: `count`, times what a soak asks for."""
    return count * TIMES
