"""Run the soak: python -m testbed.soak [--minutes N] [--kills N] [--seed N] [--state DIR [--resume]].

Two of every service, the toy engine in the real Triton, releases of several models, and kills at random. It ends with a
verdict, and with 1 if something that must hold does not; with 2 if the options do not fit. After one Ctrl-C it kills no
more and judges; after two it gives up, without a verdict and with 130.
"""

import argparse
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from testbed.soak.progress import Progress, load
from testbed.soak.session import Plan, Session, Verdict

USAGE, GIVEN_UP = 2, 130
STOPPING = b"stopping: what was announced must end first, then it is judged; Ctrl-C again to give up\n"


class UsageError(ValueError):
    """Options that do not fit together, or not the folder."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m testbed.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, help="time under kills at most (default: until kills and releases)")
    parser.add_argument("--kills", type=int, default=usual.kills, help="processes to end, over all sessions")
    parser.add_argument("--releases", type=int, default=usual.releases, help="checkpoints to announce at least")
    parser.add_argument("--models", type=int, default=usual.models)
    parser.add_argument("--every", type=float, default=usual.every_s, help="seconds between two signals, on average")
    parser.add_argument("--rps", type=float, default=usual.rps, help="requests a second to each model")
    parser.add_argument("--settle", type=float, default=usual.settle_s, help="seconds until all must have ended")
    parser.add_argument("--seed", type=int, help="what the draws follow from (default: at random, printed)")
    parser.add_argument("--state", type=Path, help="folder to keep (default: a temporary one)")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder's earlier sessions did")
    return parser.parse_args(arguments)


def begin(folder: Path, options: argparse.Namespace) -> Progress:
    """Return the counts to go on with.

    Raises:
        UsageError: the folder and the options do not agree.
    """
    earlier = load(folder)
    if earlier is None:
        if options.resume:
            print(f"{folder} holds no soak: this is its first session", flush=True)
        return Progress(options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000))
    if not options.resume:
        raise UsageError(f"{folder} holds a soak with {earlier.kills} kills: use --resume, or another folder")
    if options.seed not in (None, earlier.seed):
        raise UsageError(
            f"--seed {options.seed} does not fit: {folder} holds a soak of seed {earlier.seed}; leave --seed out, or "
            "use another folder"
        )
    return earlier


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
    progress = begin(folder, options)
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
    show_line(f"seed {progress.seed}, session {progress.sessions + 1}, folder {folder}")
    session = Session(folder, plan, progress, show_line)
    interrupts = Interrupts(session.interrupt)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupts)
    try:
        verdict = session.run()
    except KeyboardInterrupt:
        show_line("given up: no verdict")
        show_line(describe_resume(folder, options))
        return GIVEN_UP
    show(verdict, progress, folder, show_line)
    if progress.kills < plan.kills or len(progress.announced) < plan.releases:
        show_line(f"{progress.kills} of {plan.kills} kills; {describe_resume(folder, options)}")
    return 1 if verdict.problems else 0


def describe_resume(folder: Path, options: argparse.Namespace) -> str:
    """Return how the soak of a folder goes on, with the options that it had, for a person."""
    if options.state is None:
        return "it cannot go on, because its folder was temporary; begin with --state DIR for one that can"
    usual = parse([])
    given = {name: value for name, value in vars(options).items() if value != getattr(usual, name)}
    named = {**given, "state": folder, "seed": None, "resume": None}
    arguments = shlex.join(
        text for name, value in named.items() if value is not None for text in (f"--{name}", str(value))
    )
    return f"go on with it: make soak ARGS={shlex.quote(f'{arguments} --resume')}"


def show(verdict: Verdict, progress: Progress, folder: Path, show_line) -> None:
    """Print the verdict."""
    for note in verdict.notes:
        show_line(note)
    signals = ", ".join(f"{count} {name}" for name, count in sorted(progress.signals.items()))
    show_line(f"killed by part: {', '.join(f'{part} {count}' for part, count in sorted(progress.killed.items()))}")
    show_line(
        f"seed {progress.seed}: {progress.kills} kills ({signals}), {len(progress.announced)} releases, "
        f"{progress.minutes:.1f} min under kills in {progress.sessions} session(s)"
    )
    for problem in verdict.problems:
        show_line(f"VIOLATED {problem}")
    if verdict.problems:
        show_line(f"{len(verdict.problems)} violations; look at {folder}/state/logs and {folder}/memory.jsonl")
    else:
        show_line("everything holds")


def run(options: argparse.Namespace) -> int:
    """Run one session in the folder that was given, or in a temporary one; return the exit code."""
    if options.state is not None:
        return soak(options.state.absolute(), options)
    if options.resume:
        raise UsageError("--resume needs --state: it names the folder of the earlier sessions")
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        return soak(Path(scratch), options)


def main() -> int:
    """Run the command."""
    try:
        return run(parse(sys.argv[1:]))
    except UsageError as error:
        print(error, file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
