"""Run stories: a hundred new ones, or `python -m tests.world 100-199`; with `--show` each as a picture.

With `--state FILE` a long run goes on where it ended; each line there is a seed, how many faults came, and how much went wrong.
"""

import argparse
import random
import time
from pathlib import Path

from tests.world.picture import draw
from tests.world.story import Told, shrink, tell


def main() -> int:
    """Run the stories of some seeds; return how many went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.world", description=__doc__)
    parser.add_argument("seeds", nargs="?", default="", help="a seed, or the first and the last one: 100-199")
    parser.add_argument("--show", action="store_true", help="print each story: who did what when")
    parser.add_argument("--shrink", action="store_true", help="leave out the faults that a story goes wrong without")
    parser.add_argument("--state", type=Path, help="a file of the seeds that were told; they are not told again")
    given = parser.parse_args()
    wrong, began_s = 0, time.process_time()
    before = given.state.read_text().splitlines() if given.state and given.state.exists() else ()
    known = {int(line.split()[0]) for line in before}
    seeds = [seed for seed in _seeds(given.seeds) if seed not in known]
    for seed in seeds:
        told = tell(seed)
        if given.state:
            with given.state.open("a") as file:
                file.write(f"{seed} {told.came} {len(told.violations)}\n")
        if told.violations and given.shrink:
            told = shrink(told)
        wrong += bool(told.violations)
        if given.show or told.violations:
            _print(told, whole=given.show)
    print(
        f"{len(seeds)} stories of {given.seeds or f'{seeds[0]}-{seeds[-1]}'}, {wrong} went wrong, "
        f"{time.process_time() - began_s:.1f} s of processor time"
    )
    return wrong


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    if not first:
        drawn = 1000 * random.SystemRandom().randrange(1, 1_000_000)
        return range(drawn, drawn + 100)
    return range(int(first), int(last or first) + 1)


def _print(told: Told, *, whole: bool) -> None:
    if whole:
        print(*draw(told.lines), sep="\n")
    print(told, flush=True)


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
