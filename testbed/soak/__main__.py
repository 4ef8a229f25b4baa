"""Run the soak: python -m testbed.soak [--minutes N] [--kills N] [--seed N] [--state DIR].

Two of every service, the toy engine in the real Triton, releases of several models, and kills at random. It ends with a
verdict, and with 1 if something that must hold does not. After one Ctrl-C it kills no more and judges; after two it
gives up, without a verdict and with 130.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from testbed.soak.progress import Progress
from testbed.soak.session import Plan, Session, Verdict

GIVEN_UP = 130
STOPPING = b"stopping: what was announced must end first, then it is judged; Ctrl-C again to give up\n"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m testbed.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, help="time under kills at most (default: until kills and releases)")
    parser.add_argument("--kills", type=int, default=usual.kills, help="processes to end")
    parser.add_argument("--releases", type=int, default=usual.releases, help="checkpoints to announce at least")
    parser.add_argument("--models", type=int, default=usual.models)
    parser.add_argument("--every", type=float, default=usual.every_s, help="seconds between two signals, on average")
    parser.add_argument("--rps", type=float, default=usual.rps, help="requests a second to each model")
    parser.add_argument("--settle", type=float, default=usual.settle_s, help="seconds until all must have ended")
    parser.add_argument("--seed", type=int, help="what the draws follow from (default: at random, printed)")
    parser.add_argument("--state", type=Path, help="folder to keep (default: a temporary one)")
    return parser.parse_args(arguments)


class Interrupts:
    """Handles SIGINT and SIGTERM: the first ends the kills, each further one gives up."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._count = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            raise KeyboardInterrupt
        os.write(sys.stderr.fileno(), STOPPING)  # print is not reentrant, and a signal may come during one
        self._interrupt()


def soak(folder: Path, options: argparse.Namespace) -> int:
    """Run one session and print its verdict; return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"{folder} is not empty; the releases of an earlier soak would be judged: name another folder")
        return 2
    progress = Progress(options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000))
    began = time.monotonic()

    def show_line(text: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {text}", flush=True)

    plan = Plan(
        models=options.models,
        releases=options.releases,
        kills=options.kills,
        minutes=options.minutes,
        every_s=options.every,
        rps=options.rps,
        settle_s=options.settle,
    )
    show_line(f"seed {progress.seed}, folder {folder}")
    session = Session(folder, plan, progress, show_line)
    interrupts = Interrupts(session.interrupt)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupts)
    try:
        verdict = session.run()
    except KeyboardInterrupt:
        show_line("given up: no verdict")
        return GIVEN_UP
    show(verdict, progress, folder, show_line)
    return 1 if verdict.problems else 0


def show(verdict: Verdict, progress: Progress, folder: Path, show_line) -> None:
    """Print the verdict."""
    for note in verdict.notes:
        show_line(note)
    signals = ", ".join(f"{count} {name}" for name, count in sorted(progress.signals.items()))
    show_line(f"killed by part: {', '.join(f'{part} {count}' for part, count in sorted(progress.killed.items()))}")
    show_line(
        f"seed {progress.seed}: {progress.kills} kills ({signals}), {len(progress.announced)} releases, "
        f"{progress.minutes:.1f} min under kills"
    )
    for problem in verdict.problems:
        show_line(f"VIOLATED {problem}")
    if verdict.problems:
        show_line(f"{len(verdict.problems)} violations; look at {folder}/state/logs and {folder}/memory.jsonl")
    else:
        show_line("everything holds")


def main() -> int:
    """Run the command, in the folder that was given, or in a temporary one."""
    options = parse(sys.argv[1:])
    if options.state is not None:
        return soak(options.state.absolute(), options)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        return soak(Path(scratch), options)


if __name__ == "__main__":
    sys.exit(main())
