"""Run one of the jobs that are left out of `make test`: that which passed longest ago by `tests/rotation.tsv`.

    python -m tests.kit.run.rotation [--write] [--job NAME]

Without `--write` (`.ci/run`) the row of a job that passed is printed, to be committed; with it (`make rotate`) the table is
changed. Where no row is committed, each further commit takes the next job, so that the same one does not run each time.
A job whose set-up fails, for want of an interpreter or of packages, or all of whose tests are skipped, could not run: the
next one is taken, and this is printed. As in `.ci/run`, a skip that is not expected fails the job.
"""

import argparse
import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.kit.run.skips import ONLY_SKIPS

TABLE = Path("tests/rotation.tsv")
NEVER, NONE = "never", "-"
SETUP_S, JOB_S = 600, 600
"""Seconds until a set-up, or a job, has failed; a job should take 240."""


@dataclass(frozen=True)
class Job:
    """One row of the table.

    Attributes:
        name: as a person names it.
        setup: the command that makes its environment; `-` for none.
        command: what passes with exit code 0.
        passed: when it passed last, in UTC; `never` before.
        commit: at which commit.
        seconds: how long it took.
    """

    name: str
    setup: str
    command: str
    passed: str
    commit: str
    seconds: str


def read(text: str) -> list[Job]:
    """Return the jobs of a table."""
    return [Job(*row) for row in list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))[1:]]


def row(job: Job) -> str:
    """Return the row of a job."""
    return "\t".join(asdict(job).values())


def in_turn(jobs: Sequence[Job], commits: int) -> list[Job]:
    """Return the jobs in the order in which they are tried.

    Args:
        jobs: in the order of the table, which decides between those that never passed.
        commits: how many came after the one that changed the table: each takes the next job.
    """
    ordered = sorted(jobs, key=lambda job: "" if job.passed == NEVER else job.passed)
    first = commits % len(ordered)
    return [*ordered[first:], *ordered[:first]]


def passed(job: Job, now: datetime, commit: str, seconds: float) -> Job:
    """Return a job that passed just now."""
    return replace(job, passed=f"{now:%Y-%m-%d %H:%M}", commit=commit, seconds=f"{seconds:.0f}")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(command: str, limit_s: float) -> int:
    print(f"$ {command}", flush=True)
    path = f"{Path('.venv/bin').absolute()}{os.pathsep}{os.environ['PATH']}"
    limited = ["timeout", "--kill-after=10", str(limit_s), "bash", "-c", command]
    with subprocess.Popen(limited, env={**os.environ, "PATH": path, "CI": "1"}) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # `timeout` ends all that it started
            raise


def main(arguments: Sequence[str]) -> int:
    """Run one job and print its row; return the exit code."""
    jobs, failed = read(TABLE.read_text()), set[str]()
    parser = argparse.ArgumentParser(description="Run the job that passed longest ago.")
    parser.add_argument("--write", action="store_true", help=f"write the row of a job that passes into {TABLE}")
    parser.add_argument(
        "--job", metavar="NAME", choices=[job.name for job in jobs], help="this one, whenever it passed"
    )
    options = parser.parse_args(arguments)
    changed = _git("log", "-1", "--format=%H", "--", str(TABLE))
    commits = 0 if options.write else int(_git("rev-list", "--count", f"{changed}..HEAD") or 0)
    for job in [job for job in in_turn(jobs, commits) if options.job in (None, job.name)]:
        if job.setup in failed or (job.setup != NONE and _run(job.setup, SETUP_S)):
            failed.add(job.setup)
            print(f"{job.name}: could not run here, its set-up failed", flush=True)
            continue
        began = time.monotonic()
        if (code := _run(job.command, JOB_S)) == ONLY_SKIPS:
            print(f"{job.name}: could not run here, its tests were skipped", flush=True)
            continue
        if code:
            print(f"{job.name}: failed; again: make rotate JOB='{job.name}'")
            return 1
        done = passed(job, datetime.now(UTC), _git("rev-parse", "--short=8", "HEAD") or NONE, time.monotonic() - began)
        if options.write:  # others may have changed their rows meanwhile
            now = [done if each.name == job.name else each for each in read(TABLE.read_text())]
            header = TABLE.read_text().partition("\n")[0]
            TABLE.write_text("\n".join([header, *map(row, now)]) + "\n")
        print(f"{job.name}: passed in {done.seconds} s; the row for {TABLE}:\n{row(done)}")
        return 0
    print("no job could run here")
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
