"""One session of a soak: a stack with two of every service, releases, traffic and kills, then the checks."""

import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.soak import inspection, judging, memory
from testbed.soak.checkpoints import make_models
from testbed.soak.kills import Killer
from testbed.soak.log_view import LogView
from testbed.soak.progress import Progress
from testbed.soak.receiver import Receiver
from testbed.soak.releases import Owner
from testbed.soak.threads import Threads
from testbed.soak.traffic import Traffic
from testbed.stack import Stack

TWICE = (
    "registry", "merger", "quantiser", "server-manager", "benchmarker", "monitor", "rollback-controller", "gateway",
    "console", "notifier",
)  # fmt: skip
"""The services that run twice: all but the mirror, of which two do the same work, and which needs a registry."""
GATEWAYS = ("gateway", "gateway-2")
FASTER = {
    "MONITOR_UPDATE_EVERY_S": "3",
    "MONITOR_ASSESS_EVERY_S": "3",
    "MONITOR_WINDOW_S": "10",
    "MONITOR_LATENESS_S": "2",
}
"""Shorter windows, so that a canary is decided in seconds."""
SHOW_EVERY_S = 15.0
MEMORY_S = 180.0
"""Seconds under kills from which on the memory of some parts must have been compared."""


@dataclass(frozen=True)
class Plan:
    """How long and how hard.

    Attributes:
        models: how many, each released by an owner of its own.
        releases: announced at least, unless the time ends before.
        kills: processes ended at least, unless the time ends before.
        minutes: time under kills at most; None for no limit.
        every_s: seconds between two signals, on average.
        rps: requests a second to each model.
        settle_s: time after the last kill within which everything must have ended.
    """

    models: int = 5
    releases: int = 20
    kills: int = 1000
    minutes: float | None = None
    every_s: float = 1.5
    rps: float = 2.0
    settle_s: float = 300.0


@dataclass
class Verdict:
    """Violations, and what a person should know beside them."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, title: str, problems: Sequence[str]) -> None:
        """Add problems that are not there yet."""
        for problem in problems:
            if (line := f"{title}: {problem}") not in self.problems:
                self.problems.append(line)


@dataclass(frozen=True)
class Running:
    """What runs beside a stack: the readers of its log and memory, callers, signals, and the owners of models."""

    log: LogView
    traffic: Traffic
    sampler: memory.Sampler
    killer: Killer
    owners: Sequence[Owner]

    def start(self) -> None:
        """Read the log once, then start everything."""
        self.log.read_whole()
        parts: tuple[Any, ...] = (self.log, self.traffic, self.sampler, self.killer, *self.owners)
        for part in parts:
            part.start()

    def stop_kills(self) -> None:
        """Announce no more and send no more signals; what is announced goes on, and so do callers."""
        for owner in self.owners:
            owner.stop()
        self.killer.stop()
        self.sampler.stop()

    def find_busy_owners(self) -> list[str]:
        """Return the owners that have not ended, as sentences."""
        return [work for owner in self.owners for work in owner.find_work()]


class Session:
    """Runs a plan in a folder."""

    def __init__(self, folder: Path, plan: Plan, progress: Progress, show_line: Callable[[str], None]) -> None:
        self._folder, self._plan, self._progress, self._show = folder, plan, progress, show_line
        self._models = [f"model-{number}" for number in range(1, plan.models + 1)]
        self._threads = Threads()

    def interrupt(self) -> None:
        """Kill and announce no more; what was announced must end, and is judged."""
        self._threads.is_interrupted = True

    def run(self) -> Verdict:
        """Start the stack, kill and release until the plan is fulfilled, wait until all has ended, and judge."""
        base = make_models(self._folder / "models")
        with ExitStack() as stopping:
            receiver = Receiver(self._folder)
            stopping.callback(receiver.close)
            replicas = [word for service in TWICE for word in ("--replicas", f"{service}=2")]
            settings = {**FASTER, "NOTIFIER_RECEIVERS": str(receiver.file)}
            stack = Stack(self._folder / "state", "--quiet", *replicas, **settings)
            stopping.callback(stack.down)  # also what was interrupted while it started
            stack.up()
            stack.ok("base", "import", str(base))
            self._show(f"ready: {len(stack.table()['parts'])} parts in {stack.state}")
            verdict = self._run_on(stack)
            verdict.notes.append(f"notifications received: {receiver.received}")
        verdict.notes.append(f"processor seconds of all processes: {processor_s():.0f}")
        return verdict

    def _run_on(self, stack: Stack) -> Verdict:
        running = self._prepare(stack)
        running.start()
        began = time.monotonic()
        try:
            self._wait(running.log)
            under_kills_s = time.monotonic() - began
        finally:
            running.stop_kills()
        self._show(f"no more kills; everything must have ended within {self._plan.settle_s:.0f} s")
        verdict = Verdict()
        self._settle(stack, running, verdict)
        running.traffic.stop()
        running.log.stop()
        self._judge(stack, running.log, verdict, running.traffic)
        self._judge_memory(running.sampler, verdict, under_kills_s)
        self._judge_owners(running.owners, verdict)
        verdict.add("thread", self._threads.failures)
        return verdict

    def _prepare(self, stack: Stack) -> Running:
        progress, threads = self._progress, self._threads
        chance = random.Random(progress.seed)
        log = LogView(stack, threads)
        killer = Killer(stack, progress, random.Random(chance.random()), self._plan.every_s, threads)
        return Running(
            log,
            Traffic(stack, progress, self._models, self._plan.rps, threads),
            memory.Sampler(stack, self._folder / "memory.jsonl", threads),
            killer,
            [
                Owner(
                    model,
                    random.Random(chance.random()),
                    stack=stack,
                    log=log,
                    progress=progress,
                    folder=self._folder,
                    threads=threads,
                )
                for model in self._models
            ],
        )

    def _wait(self, log: LogView) -> None:
        began, shown_s = time.monotonic(), 0.0
        while not self._threads.is_interrupted:
            time.sleep(0.5)
            elapsed_s = time.monotonic() - began
            if elapsed_s - shown_s >= SHOW_EVERY_S:
                shown_s = elapsed_s
                self._show(self._status(log))
            if self._plan.minutes is not None and elapsed_s >= 60 * self._plan.minutes:
                return
            enough = len(self._progress.announced) >= self._plan.releases and self._progress.kills >= self._plan.kills
            if enough:
                return

    def _status(self, log: LogView) -> str:
        progress, ends = self._progress, self._ends(log)
        answered = progress.answers["200"]
        return (
            f"{progress.minutes:6.1f} min  {progress.kills} kills, {progress.signals['SIGSTOP']} stops  "
            f"{len(progress.announced)} announced, {sum(ends.counts.values())} ended, {len(ends.open)} open  "
            f"{answered} of {sum(progress.answers.values())} requests answered"
        )

    def _ends(self, log: LogView) -> judging.Ends:
        progress = self._progress
        with progress.lock:
            announced, published = [*progress.announced], {*progress.published}
        return judging.judge_ends(announced, published, log.events)

    # -- after the last kill ------------------------------------------------------------------------------------------

    def _settle(self, stack: Stack, running: Running, verdict: Verdict) -> None:
        """Wait until all has ended: the owners first, whose commands would change what is looked at afterwards."""
        began, limit_s = time.monotonic(), self._plan.settle_s

        def left_s() -> float:
            return max(5.0, limit_s - (time.monotonic() - began))

        for title, look in (
            ("part", lambda: inspection.parts_that_are_not_ready(stack)),
            ("owner", running.find_busy_owners),
            ("open", lambda: self._open(running.log)),
            ("waiting", lambda: inspection.work_that_waits(stack)),
            ("stuck", lambda: inspection.leases_that_are_stuck(stack)),
        ):
            verdict.add(title, inspection.wait_until_none(look, left_s(), self._show))
        verdict.notes.append(f"all had ended {time.monotonic() - began:.0f} s after the last kill")

    def _open(self, log: LogView) -> list[str]:
        """Read the log, and return the releases and rollbacks that have no end."""
        log.read_whole()
        releases = [f"{run_id} has no end" for run_id in self._ends(log).open]
        return releases + judging.find_open_rollbacks(log.events)

    def _judge(self, stack: Stack, log: LogView, verdict: Verdict, traffic: Traffic) -> None:
        verdict.add("open", self._open(log))
        ends = self._ends(log)
        verdict.add("end", ends.problems)
        verdict.add("unexpected end", ends.unexpected)
        verdict.add("twice", judging.find_doubles(log.events))
        verdict.add("answer", judging.judge_answers(traffic.answers, log.events))
        verdict.add("dead letter", inspection.dead_letters(stack))
        intact, problems = inspection.half_artifacts(stack)
        verdict.add("artifact", problems)
        verdict.add("gc", inspection.what_gc_says(stack))
        served = [model for model in self._models if judging.served_by_time(log.events, model)]
        verdict.add("proof", inspection.unproven_versions(stack, served))
        verdict.add("serving", self._ask_all(traffic, served))
        verdict.notes += [
            f"{intact} files of committed manifests are intact",
            f"ends: {', '.join(f'{count} {end}' for end, count in sorted(ends.counts.items()))}",
            f"answers of this session: {dict(traffic.statuses.most_common())}",
        ]

    def _ask_all(self, traffic: Traffic, models: list[str]) -> list[str]:
        """Ask each served model at each gateway."""
        asked = {(model, gateway): traffic.ask(model, gateway, "last") for model in models for gateway in GATEWAYS}
        return [f"{model} at {gateway}: {status}" for (model, gateway), status in asked.items() if status != "200"]

    def _judge_owners(self, owners: Sequence[Owner], verdict: Verdict) -> None:
        commands: Counter[str] = Counter()
        for owner in owners:
            verdict.add("order", owner.failures)
            commands += owner.commands
        verdict.notes.append(f"commands: {dict(sorted(commands.items()))}")

    def _judge_memory(self, sampler: memory.Sampler, verdict: Verdict, under_kills_s: float) -> None:
        grown = memory.growth(sampler.samples)
        if under_kills_s >= MEMORY_S and not grown:
            verdict.add("memory", [f"{len(sampler.samples)} samples of {under_kills_s:.0f} s let no part be compared"])
        verdict.add(
            "memory",
            [
                f"{each.part} grew from {each.early_mib:.0f} to {each.late_mib:.0f} MiB; at most {each.limit_mib:.0f} "
                "count as flat"
                for each in grown
                if each.late_mib > each.limit_mib
            ],
        )
        most = max(grown, key=lambda each: each.late_mib - each.early_mib, default=None)
        verdict.notes.append(
            f"memory of {len(grown)} parts was compared"
            + (f"; most: {most.part}, {most.early_mib:.0f} to {most.late_mib:.0f} MiB" if most else "")
        )


def processor_s() -> float:
    """Return the processor time of this process and of those that have ended below it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
