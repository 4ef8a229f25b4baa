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

from clients.cli.event_log import LoggedEvent
from contracts.facts import (
    CheckpointReady,
    CheckpointRejected,
    DeploymentChanged,
    ReleaseFinished,
    ReleaseOpened,
    RollbackCompleted,
    RollbackFailed,
)
from contracts.facts.release import Outcome
from testbed.soak.checkpoints import make_adapter
from testbed.soak.log_view import LogView
from testbed.soak.progress import Announced, Progress
from testbed.stack import POLICY, Stack

ERRORS: Final = {"name": "errors", "metric": "error_ratio", "threshold": 0.5, "min_requests": 10, "window_s": 5}
USUAL: Final[dict[str, Any]] = {
    **POLICY,
    "gates": [{"metric": "error_ratio", "max_value": 0.6}],
    "canary": {"steps": [0.5], "min_requests": 10, "deadline_s": 600},
    "triggers": [{**ERRORS, "alpha": 0.001, "action": "manual", "cooldown_s": 1}],
}


@dataclass(frozen=True)
class Kind:
    """A kind of release.

    Attributes:
        share: how often it is drawn.
        ends: the outcomes that it may have; the last one only where the intervention came too late.
        policy: what its policy changes.
        damaged: whether its weights are cut off.
        needs_active: whether the model must be served already.
    """

    share: float
    ends: tuple[Outcome, ...]
    policy: dict[str, Any]
    damaged: bool = False
    needs_active: bool = True


KINDS: Final = {
    "healthy": Kind(0.35, ("promoted",), {}, needs_active=False),
    "damaged": Kind(0.15, ("rejected",), {}, damaged=True, needs_active=False),
    "slow": Kind(
        0.10,
        ("rejected",),
        {"gates": [{"metric": "ttft_ms", "statistic": "p50", "max_value": 0.001}]},
        needs_active=False,
    ),
    "bad canary": Kind(0.15, ("aborted", "promoted"), {"canary": {**USUAL["canary"], "min_requests": 150}}),
    "cancelled": Kind(0.10, ("cancelled", "promoted"), {"canary": {**USUAL["canary"], "min_requests": 200}}),
    "rolled back": Kind(0.15, ("promoted",), {}),
}
MOST_TRIES = 40
AGAIN_S = 2.0
RELEASE_S = 600.0
"""How long a release is waited for before the next one of its model is announced."""
CANARY_S = 300.0
ROLLBACK_S = 120.0


def draw_kind(chance: random.Random, *, is_served: bool) -> str:
    """Draw what becomes of the next checkpoint of a model; the first one is healthy."""
    if not is_served:
        return "healthy"
    return chance.choices(list(KINDS), [kind.share for kind in KINDS.values()])[0]


def end_of(events: Sequence[LoggedEvent], run_id: str) -> ReleaseFinished | CheckpointRejected | None:
    """Return the event that ended the release of a training run, or refused its checkpoint; None before."""
    announcements = {
        each.event.id
        for each in events
        if isinstance(each.event.data, CheckpointReady) and each.event.data.training.run_id == run_id
    }
    opened = {
        each.event.data.release_id
        for each in events
        if isinstance(each.event.data, ReleaseOpened) and each.event.data.training.run_id == run_id
    }
    for each in events:
        data = each.event.data
        if isinstance(data, ReleaseFinished) and data.release_id in opened:
            return data
        if isinstance(data, CheckpointRejected) and not opened and each.event.causationid in announcements:
            return data
    return None


def version_of(events: Sequence[LoggedEvent], run_id: str) -> int | None:
    """Return the version that is made of a training run's checkpoint; None before its release is opened."""
    for each in events:
        if isinstance(each.event.data, ReleaseOpened) and each.event.data.training.run_id == run_id:
            return each.event.data.version
    return None


def has_canary(events: Sequence[LoggedEvent], model: str, version: int | None) -> bool:
    """Return whether a version has taken a share of the traffic as a canary."""
    routes = [each.event.data.route for each in events if isinstance(each.event.data, DeploymentChanged)]
    return any(
        route.model == model and route.canary is not None and route.canary.served.target.version == version
        for route in routes
    )


def previous_of(events: Sequence[LoggedEvent], model: str, version: int | None) -> int | None:
    """Return the version behind an active one; None if it is not active."""
    routes = [each.event.data.route for each in events if isinstance(each.event.data, DeploymentChanged)]
    newest = max((route for route in routes if route.model == model), key=lambda route: route.epoch, default=None)
    if newest is None or newest.active is None or newest.previous is None or newest.active.target.version != version:
        return None
    return newest.previous.target.version


def is_rolled_back(events: Sequence[LoggedEvent], model: str, version: int | None) -> bool:
    """Return whether a version's rollback has ended."""
    ended = [each.event for each in events if isinstance(each.event.data, RollbackCompleted | RollbackFailed)]
    return any(event.subject == model and event.data.failed.version == version for event in ended)


class Owner:
    """The person who releases one model, again and again."""

    def __init__(
        self, model: str, chance: random.Random, *, stack: Stack, log: LogView, progress: Progress, folder: Path
    ) -> None:
        self._model, self._chance, self._folder = model, chance, folder
        self._stack, self._log, self._progress = stack, log, progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run_guarded, daemon=True)
        self.failures: list[str] = []
        self.commands: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Announce no more."""
        self._stop.set()

    def join(self) -> None:
        self._thread.join(RELEASE_S)

    def _run_guarded(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.failures.append(f"the owner of {self._model} ended: {error!r}")
            raise

    def _run(self) -> None:
        while not self._stop.is_set():
            kind = draw_kind(self._chance, is_served=self._is_served())
            announced = self._progress.announce(self._model, kind)
            self._progress.save(self._folder)
            if not self._announce(announced):
                self.failures.append(f"checkpoint {announced.number} of {self._model} could not be announced")
                return
            self._intervene(announced)
            self._log.wait_for(lambda events, it=announced: self._has_ended(events, it), RELEASE_S)
            if kind == "rolled back" and not self._stop.is_set():
                self._roll_back(announced)

    def _has_ended(self, events: Sequence[LoggedEvent], announced: Announced) -> bool:
        return end_of(events, announced.run_id) is not None

    def _is_served(self) -> bool:
        return any(
            isinstance(each.event.data, DeploymentChanged)
            and each.event.data.route.model == self._model
            and each.event.data.route.active is not None
            for each in self._log.events
        )

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
        if announced.kind not in ("bad canary", "cancelled"):
            return
        self._log.wait_for(
            lambda events: (
                self._has_ended(events, announced)
                or has_canary(events, self._model, version_of(events, announced.run_id))
            ),
            CANARY_S,
        )
        version = version_of(self._log.events, announced.run_id)
        if version is None:
            return
        reason = ("--reason", "soak")
        command: tuple[str, ...] = ("cancel", f"{self._model}@v{version}", *reason)
        if announced.kind == "bad canary":
            fault = ("--fault", "error_ratio=1.0", "--share", "1.0", "--for", "5m")
            command = ("drill", self._model, "--target", f"{self._model}@candidate", *fault, *reason)
        self._order(*command, is_over=lambda: self._has_ended(self._log.events, announced))

    def _roll_back(self, announced: Announced) -> None:
        """Roll the version back that was promoted, and wait until traffic has moved."""
        version = version_of(self._log.events, announced.run_id)
        previous = previous_of(self._log.events, self._model, version)
        if previous is None:
            return

        def is_done() -> bool:
            return is_rolled_back(self._log.events, self._model, version)

        self._order("rollback", self._model, "--to", str(previous), "--reason", "soak", "--no-wait", is_over=is_done)
        self._log.wait_for(lambda _: is_done(), ROLLBACK_S)
