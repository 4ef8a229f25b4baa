"""Run mutants: python -m testbed.mutants [--number N] [--seed N] [--no-named] [FILE …].

Those that `mutants.toml` names, and a number drawn at random from `decisions` and the services' domains (or from FILE).
A mutant is killed if a test fails; each test that killed one is run once more without it. Ends with 1 if a named mutant
survives, or one that is drawn and that `mutants.toml` does not list as equivalent.
"""

import argparse
import contextlib
import os
import random
import select
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.mutants.changes import Mutant, find_mutants
from testbed.mutants.child import fork, import_libraries
from testbed.mutants.choice import choose_tests

LISTS = Path(__file__).with_name("mutants.toml")
MUTATED = ("decisions/**/*.py", "services/*/domain/**/*.py")
WALL_S = 300.0
VERDICTS = {0: "survived", 2: "survived", -signal.SIGXCPU: "hangs"}
"""By the exit code of tests of which none failed; 2 is that of pytest where the limit of processor time stopped it."""


@dataclass
class Trial:
    """A mutant, and what its tests found: `killed`, one of `VERDICTS` or an error, with the first test that failed."""

    mutant: Mutant
    tests: list[str]
    is_named: bool
    notes: int = -1
    began_s: float = 0.0
    verdict: str = ""
    failed: str = ""

    def end(self, status: int) -> None:
        """Take the end of its process."""
        with os.fdopen(self.notes) as notes:
            self.failed = notes.readline().strip()
        code = os.waitstatus_to_exitcode(status)
        self.verdict = "killed" if self.failed else VERDICTS.get(code, f"error {code}")

    def describe(self, why: str = "") -> str:
        """Return what its tests found, in a line if one failed, else in three."""
        before, after = self.mutant.lines
        place = f"{self.verdict:8} {self.mutant.file}:{self.mutant.line}"
        if self.failed:
            old, new = (" ".join(text.split()) for text in (self.mutant.old, self.mutant.new))
            return f"{place}  {old} -> {new or 'nothing'}  by {self.failed}"
        return f"{place}{f' equivalent: {why}' if why else ''}\n    - {before}\n    + {after}"


def read_lists() -> tuple[list[tuple[str, str, str, str]], dict[tuple[str, str, str], str]]:
    """Return the named mutants, and the reasons by the file and lines of equivalent ones."""
    lists = tomllib.loads(LISTS.read_text())
    return [tuple(entry) for entry in lists["named"]], {tuple(key): why for *key, why in lists["equivalent"]}


def plan_named(named: list[tuple[str, str, str, str]], most: int) -> Iterator[Trial]:
    """Iterate over the named mutants.

    Raises:
        SystemExit: the text of one is not in its file exactly once.
    """
    for file, old, new, test in named:
        source = Path(file).read_text()
        if source.count(old) != 1:
            sys.exit(f"{LISTS.name}: {old!r} is {source.count(old)} times in {file}: change the list with the code")
        mutant = Mutant(file, source.index(old), old, new, source)
        others = (other for other in choose_tests(file, mutant.line, most) if other != test)
        yield Trial(mutant, [test, *others], is_named=True)


def plan_drawn(files: list[str], number: int, seed: int, most: int) -> Iterator[Trial]:
    """Iterate over mutants that are drawn from files."""
    chosen = files or sorted(str(file) for pattern in MUTATED for file in Path().glob(pattern))
    found = [mutant for file in chosen for mutant in find_mutants(file, Path(file).read_text())]
    drawn = random.Random(seed).sample(found, min(number, len(found)))
    print(f"{len(drawn)} of {len(found)} mutants in {len(chosen)} files, drawn with --seed {seed}", flush=True)
    for mutant in drawn:
        yield Trial(mutant, choose_tests(mutant.file, mutant.line, most), is_named=False)


def run(trials: list[Trial], parallel: int, limit_s: float, equivalent: dict[tuple[str, str, str], str]) -> None:
    """Run all trials, some at a time, and print each as it ends. Whatever happens, no process of them is left."""
    waiting, running, done = list(reversed(trials)), dict[int, Trial](), 0
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                trial = waiting.pop()
                trial.notes, writing = os.pipe()
                trial.began_s = time.monotonic()
                running[fork(trial.tests, trial.mutant, writing, limit_s, "-x")] = trial
                os.close(writing)
            select.select([], [], [], 0.05)
            for pid, trial in list(running.items()):
                if time.monotonic() - trial.began_s > WALL_S:
                    os.kill(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del running[pid]
                    kill_group(pid)
                    done += 1
                    trial.end(status)
                    why = equivalent.get((trial.mutant.file, *trial.mutant.lines), "")
                    print(f"[{done}/{len(trials)}] {trial.describe(why)}", flush=True)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kill_group(pid)


def kill_group(pid: int) -> None:
    """Kill what a process of tests has started and left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def find_false(trials: list[Trial], limit_s: float) -> list[Trial]:
    """Return the trials whose test fails without the mutant, too."""
    killing = sorted({trial.failed.split("[")[0] for trial in trials if trial.failed})
    if not killing:
        return []
    reading, writing = os.pipe()
    pid = fork(killing, None, writing, 10 * limit_s)
    os.close(writing)
    with os.fdopen(reading) as notes:
        failing = set(notes.read().splitlines())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, 1):
        sys.exit(f"the tests that killed mutants could not be run without them (status {code})")
    return [trial for trial in trials if trial.failed in failing]


def main() -> int:
    """Run the mutants that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m testbed.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="draw from these files only")
    parser.add_argument("--number", type=int, default=100, help="how many to draw")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="of the drawing")
    parser.add_argument("--named", action=argparse.BooleanOptionalAction, default=True, help="those of mutants.toml")
    parser.add_argument("--parallel", type=int, default=2, help="processes at a time")
    parser.add_argument("--tests", type=int, default=20, help="test files for a mutant at most, the nearest")
    parser.add_argument("--cpu", type=float, default=25.0, help="processor seconds after which no further test starts")
    options = parser.parse_args()
    os.nice(10)
    named, equivalent = read_lists()
    trials = list(plan_named(named, options.tests)) if options.named else []
    trials += plan_drawn(options.files, options.number, options.seed, options.tests)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "TMPDIR": folder,
            "OPENBLAS_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(Path.cwd()),
        }
        tempfile.tempdir = None
        import_libraries()
        run(trials, options.parallel, options.cpu, equivalent)
        false = find_false(trials, options.cpu)
    return report(trials, false, equivalent)


def report(trials: list[Trial], false: list[Trial], equivalent: dict[tuple[str, str, str], str]) -> int:
    """Print the table and what needs a test; return the exit code."""
    print(f"\n{'':10}{'mutants':>8}{'killed':>8}{'hang':>8}{'survived':>10}{'equivalent':>12}")
    open_ones = []
    for name, is_named in (("named", True), ("drawn", False)):
        group = [trial for trial in trials if trial.is_named is is_named]
        counts = Counter(trial.verdict for trial in group)
        survivors = [trial for trial in group if trial.verdict == "survived" or trial.verdict.startswith("error")]
        listed = [trial for trial in survivors if (trial.mutant.file, *trial.mutant.lines) in equivalent]
        open_ones += [trial for trial in survivors if trial not in listed or is_named]
        print(f"{name:10}{len(group):8}{counts['killed']:8}{counts['hangs']:8}{len(survivors):10}{len(listed):12}")
    for trial in open_ones:
        print(f"\n{trial.describe()}\n    tests: {' '.join(trial.tests) or 'none'}")
    for trial in false:
        print(f"\nnot killed by its change: {trial.failed} fails without it, too")
    return 1 if open_ones or false else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
