"""One session of a soak: a stack with two of every service, releases, traffic and kills, then the checks."""

import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from testbed.soak import inspection, judging, memory
from testbed.soak.checkpoints import make_models
from testbed.soak.kills import Killer
from testbed.soak.log_view import LogView
from testbed.soak.progress import Progress
from testbed.soak.receiver import Receiver
from testbed.soak.stories import Owner
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
    "ROLLBACK_CONTROLLER_VERIFY_S": "10",
}
"""Shorter windows, so that a canary and a rollback are decided in seconds."""
SHOW_EVERY_S = 15.0


@dataclass(frozen=True)
class Plan:
    """How long and how hard.

    Attributes:
        models: how many, each released by an owner of its own.
        releases: announced at least, unless the time ends before.
        kills: processes ended at least, over all sessions, unless the time ends before.
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

    def add(self, title: str, problems: list[str]) -> None:
        self.problems += [f"{title}: {problem}" for problem in problems]


class Session:
    """Runs a plan in a folder."""

    def __init__(self, folder: Path, plan: Plan, progress: Progress, show_line: Callable[[str], None]) -> None:
        self._folder, self._plan, self._progress, self._show = folder, plan, progress, show_line
        self._models = [f"model-{number}" for number in range(1, plan.models + 1)]
        self.interrupted = threading.Event()

    def run(self) -> Verdict:
        """Start the stack, kill and release until the plan is fulfilled, wait until all has ended, and judge."""
        self._progress.sessions += 1
        self._progress.save(self._folder)
        base = make_models(self._folder / "models")
        with ExitStack() as stopping:
            receiver = Receiver(self._folder)
            stopping.callback(receiver.close)
            replicas = [word for service in TWICE for word in ("--replicas", f"{service}=2")]
            settings = {**FASTER, "NOTIFIER_RECEIVERS": str(receiver.file)}
            stack = Stack(self._folder / "state", "--quiet", *replicas, **settings)
            stopping.enter_context(stack)
            stack.ok("base", "import", str(base))
            self._show(f"ready: {len(stack.table()['parts'])} parts in {stack.state}")
            verdict = self._run_on(stack)
            verdict.notes.append(f"notifications received: {receiver.received}")
        verdict.notes.append(f"processor seconds of all processes: {processor_s():.0f}")
        return verdict

    def _run_on(self, stack: Stack) -> Verdict:
        chance = random.Random(f"{self._progress.seed}/{self._progress.sessions}")
        log = LogView(stack)
        traffic = Traffic(stack, self._progress, self._models, self._plan.rps)
        sampler = memory.Sampler(stack, self._folder / "memory.jsonl")
        killer = Killer(stack, self._progress, random.Random(chance.random()), self._plan.every_s)
        owners = [
            Owner(
                model,
                random.Random(chance.random()),
                stack=stack,
                log=log,
                progress=self._progress,
                folder=self._folder,
            )
            for model in self._models
        ]
        log.read_whole()
        for each in (log, traffic, sampler, killer, *owners):
            each.start()
        try:
            self._wait(log)
        finally:
            for owner in owners:
                owner.stop()
            killer.stop()
            sampler.stop()
        self._show(f"no more kills; everything must have ended within {self._plan.settle_s:.0f} s")
        verdict = Verdict()
        self._settle(stack, log, verdict)
        traffic.stop()
        log.stop()
        self._judge(stack, log, verdict, traffic)
        self._judge_memory(sampler, verdict)
        commands: Counter[str] = Counter()
        for owner in owners:
            verdict.add("order", owner.failures)
            commands += owner.commands
        verdict.notes.append(f"commands: {dict(sorted(commands.items()))}")
        self._progress.save(self._folder)
        return verdict

    def _wait(self, log: LogView) -> None:
        began, shown_s = time.monotonic(), 0.0
        while not self.interrupted.wait(0.5):
            elapsed_s = time.monotonic() - began
            if elapsed_s - shown_s >= SHOW_EVERY_S:
                shown_s = elapsed_s
                self._show(self._status(log))
                self._progress.save(self._folder)
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
        return judging.judge_ends(list(self._progress.announced), set(self._progress.published), log.events)

    # -- after the last kill ------------------------------------------------------------------------------------------

    def _settle(self, stack: Stack, log: LogView, verdict: Verdict) -> None:
        began, limit_s = time.monotonic(), self._plan.settle_s

        def left_s() -> float:
            return max(5.0, limit_s - (time.monotonic() - began))

        def still_open() -> list[str]:
            log.read_whole()
            return [f"{run_id} has no end" for run_id in self._ends(log).open]

        for title, look in (
            ("part", lambda: inspection.parts_that_are_not_ready(stack)),
            ("open", still_open),
            ("open", lambda: self._open_rollbacks(log)),
            ("waiting", lambda: inspection.work_that_waits(stack)),
            ("stuck", lambda: inspection.leases_that_are_stuck(stack)),
        ):
            verdict.add(title, inspection.wait_until_none(look, left_s(), self._show))
        verdict.notes.append(f"all had ended {time.monotonic() - began:.0f} s after the last kill")

    def _open_rollbacks(self, log: LogView) -> list[str]:
        log.read_whole()
        return judging.find_open_rollbacks(log.events)

    def _judge(self, stack: Stack, log: LogView, verdict: Verdict, traffic: Traffic) -> None:
        log.read_whole()
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

    def _judge_memory(self, sampler: memory.Sampler, verdict: Verdict) -> None:
        grown = memory.growth(sampler.samples)
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
