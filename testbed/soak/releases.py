"""What a person does with the checkpoint of a model: announces it, watches it, injects faults, cancels, rolls back."""

import hashlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clients.cli.events.event_log import LoggedEvent
from contracts.facts.progress import Outcome
from shared.runtime.clock import SystemClock
from testbed.soak import release_log
from testbed.soak.checkpoints import make_adapter
from testbed.soak.log_view import LogView
from testbed.soak.progress import Announced, Progress
from testbed.soak.threads import Threads
from testbed.stack import POLICY, Stack

ERRORS: Final = {"name": "errors", "metric": "error_ratio", "threshold": 0.5, "min_requests": 10, "window_s": 5}
USUAL: Final[dict[str, Any]] = {
    **POLICY,
    "gates": [{"metric": "error_ratio", "max_value": 0.6}],
    "canary": {"steps": [0.5], "min_requests": 10, "deadline_s": 600},
    "triggers": [{**ERRORS, "alpha": 0.001, "action": "manual"}],
}


@dataclass(frozen=True)
class Kind:
    """A kind of release.

    Attributes:
        share: how often it is drawn.
        ends: the outcomes that it may have; those after the first only where the intervention came too late.
        policy: what its policy changes.
        damaged: whether its weights are cut off.
        lead_s: seconds before the order of all traffic at which an intervention that is accepted is in time: the
            drill's errors must be counted first, and a replica may publish what it decided before.
    """

    share: float
    ends: tuple[Outcome, ...]
    policy: dict[str, Any]
    damaged: bool = False
    lead_s: float = 0.0


KINDS: Final = {
    "healthy": Kind(0.35, ("promoted",), {}),
    "damaged": Kind(0.15, ("rejected",), {}, damaged=True),
    "slow": Kind(
        0.10,
        ("rejected",),
        {"gates": [{"metric": "ttft_ms", "statistic": "p50", "max_value": 0.001}]},
    ),
    "bad canary": Kind(
        0.15, ("aborted", "promoted"), {"canary": {**USUAL["canary"], "min_requests": 150}}, lead_s=60.0
    ),
    "cancelled": Kind(
        0.10, ("cancelled", "promoted"), {"canary": {**USUAL["canary"], "min_requests": 200}}, lead_s=5.0
    ),
    "rolled back": Kind(0.15, ("promoted",), {}),
}
MOST_TRIES = 40
AGAIN_S = 2.0
RELEASE_S = 600.0
"""How long a release is waited for before the next one of its model is announced."""
CANARY_S = 300.0
DRILL = ("--fault", "error_ratio=1.0", "--share", "1.0", "--for", "20m")
"""The errors of a bad canary; they last longer than its deadline."""
INTERVENED: Final = ("bad canary", "cancelled", "rolled back")
"""The kinds that the owner orders something for."""
REASON = ("--reason", "soak")


def draw_kind(chance: random.Random, *, is_served: bool) -> str:
    """Draw what becomes of the next checkpoint of a model; the first one is healthy."""
    if not is_served:
        return "healthy"
    return chance.choices(list(KINDS), [kind.share for kind in KINDS.values()])[0]


class Owner:
    """The person who releases one model, again and again."""

    def __init__(
        self,
        model: str,
        chance: random.Random,
        *,
        stack: Stack,
        log: LogView,
        progress: Progress,
        folder: Path,
        threads: Threads,
    ) -> None:
        self._model, self._chance, self._folder = model, chance, folder
        self._stack, self._log, self._progress = stack, log, progress
        self._stop = threading.Event()
        self._thread = threads.make(f"the owner of {model}", self._run)
        self.failures: list[str] = []
        self.commands: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Announce no more."""
        self._stop.set()

    def find_work(self) -> list[str]:
        """Return what it still has to do, as a sentence; nothing once it has ended."""
        return [f"the owner of {self._model} still waits or orders something"] if self._thread.is_alive() else []

    def _run(self) -> None:
        while not self._stop.is_set():
            kind = draw_kind(self._chance, is_served=release_log.is_served(self._log.events, self._model))
            announced = self._progress.announce(self._model, kind)
            self._progress.save(self._folder)
            if not self._announce(announced):
                raise RuntimeError(f"checkpoint {announced.number} could not be announced")
            if kind in ("bad canary", "cancelled"):
                self._intervene(announced)
            self._log.wait_for(lambda events, it=announced: _has_ended(events, it), RELEASE_S)
            if kind == "rolled back":
                self._roll_back(announced)
            if kind == "bad canary":
                self._end_drill(announced)

    def _announce(self, announced: Announced) -> bool:
        kind = KINDS[announced.kind]
        adapter = make_adapter(self._folder / "models", announced.number, damaged=kind.damaged)
        policy = self._folder / "models" / f"policy-{announced.number}.json"
        policy.write_text(json.dumps({**USUAL, **kind.policy}))
        data = hashlib.sha256(announced.run_id.encode()).hexdigest()
        variants = ("bf16", "int8") if self._chance.random() < 0.2 else ("bf16",)
        published = self._order(
            "publish", "--model", self._model, "--base", "tiny-llama", "--adapter", str(adapter),
            "--run-id", announced.run_id, "--data-hash", f"sha256:{data}", "--policy", str(policy),
            *(word for variant in variants for word in ("--variant", variant)),
        )  # fmt: skip
        if published:
            self._progress.note_published(announced)
        return published

    def _order(self, *arguments: str, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Run a command until it succeeds, as a person would while parts of the installation are away.

        `is_over` returns whether it has become useless; what was not done then is no failure.
        """
        done = None
        for _ in range(MOST_TRIES):
            if is_over():
                return False
            done = self._run_command(*arguments)
            if done.returncode == 0:
                return True
            time.sleep(AGAIN_S)
        self.failures.append(f"{' '.join(arguments[:2])}: {done.stderr.strip()[-300:] if done else ''}")
        return False

    def _run_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self._stack.slipway(*arguments)
        self.commands[f"{arguments[0]} {'done' if done.returncode == 0 else 'failed'}"] += 1
        return done

    def _intervene(self, announced: Announced) -> None:
        """Inject errors into the canary, or cancel the release, once its canary takes traffic."""
        self._log.wait_for(
            lambda events: (
                _has_ended(events, announced)
                or release_log.has_canary(events, self._model, release_log.version_of(events, announced.run_id))
            ),
            CANARY_S,
        )
        version = release_log.version_of(self._log.events, announced.run_id)
        if version is None:
            return
        command: tuple[str, ...] = ("cancel", f"{self._model}@v{version}", *REASON)
        if announced.kind == "bad canary":
            command = ("drill", self._model, "--target", f"{self._model}@candidate", *DRILL, *REASON)
        if self._order(*command, is_over=lambda: _has_ended(self._log.events, announced)):
            self._note_accepted(announced)

    def _note_accepted(self, announced: Announced) -> None:
        self._progress.note_accepted(announced, SystemClock().now())
        self._progress.save(self._folder)

    def _end_drill(self, announced: Announced) -> None:
        """End the drill on a canary that was promoted before its errors counted: it would go on in production."""
        end = release_log.end_of(self._log.events, announced.run_id)
        if getattr(end, "outcome", None) == "promoted":
            self._order("drill", self._model, "--stop", *REASON)

    def _roll_back(self, announced: Announced) -> None:
        """Roll the version back that was promoted, again until it is done: under kills an order may fail."""
        version = release_log.version_of(self._log.events, announced.run_id)
        targets = release_log.active_and_previous(self._log.events, self._model, version)
        if targets is None:
            return
        failed, previous = targets

        def is_done() -> bool:
            return release_log.is_rolled_back(self._log.events, self._model, version)

        arguments = ("--target", str(failed), "--to", str(previous.version), *REASON)
        if self._order("rollback", self._model, *arguments, is_over=is_done) or is_done():
            self._note_accepted(announced)


def _has_ended(events: Sequence[LoggedEvent], announced: Announced) -> bool:
    return release_log.end_of(events, announced.run_id) is not None
