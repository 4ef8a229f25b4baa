"""What a person does with the checkpoints of a model: announces one, and waits for its end."""

import hashlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts.facts.progress import Outcome
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
        ends: the outcomes that it may have.
        policy: what its policy changes.
        damaged: whether its weights are cut off.
    """

    share: float
    ends: tuple[Outcome, ...]
    policy: dict[str, Any]
    damaged: bool = False


KINDS: Final = {
    "healthy": Kind(0.35, ("promoted",), {}),
    "damaged": Kind(0.15, ("rejected",), {}, damaged=True),
    "slow": Kind(
        0.10,
        ("rejected",),
        {"gates": [{"metric": "ttft_ms", "statistic": "p50", "max_value": 0.001}]},
    ),
}
MOST_TRIES = 40
AGAIN_S = 2.0
RELEASE_S = 600.0
"""How long a release is waited for before the next one of its model is announced."""


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
        return [f"the owner of {self._model} still waits"] if self._thread.is_alive() else []

    def _run(self) -> None:
        while not self._stop.is_set():
            kind = draw_kind(self._chance, is_served=release_log.is_served(self._log.events, self._model))
            announced = self._progress.announce(self._model, kind)
            if not self._announce(announced):
                raise RuntimeError(f"checkpoint {announced.number} could not be announced")
            self._log.wait_for(
                lambda events, it=announced: release_log.end_of(events, it.run_id) is not None, RELEASE_S
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

    def _order(self, *arguments: str) -> bool:
        """Run a command until it succeeds, as a person would while parts of the installation are away."""
        done = None
        for _ in range(MOST_TRIES):
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
