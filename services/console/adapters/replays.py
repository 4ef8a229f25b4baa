"""Computes replays in a child process, which is ended after its limits of time and memory."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from contracts.envelope import Event, plain
from contracts.policy import Trigger
from services.console.domain.replay_screen import SMALLER, ReplayRefusedError, ReplayResult
from shared.errors import Permanent, Transient
from shared.runtime.jobs import ChildKilled, Worker
from shared.runtime.scratch_dirs import ScratchDirs

LIMIT_S: Final = 50.0
"""Less than proxies commonly wait for an answer (60 s)."""
MEMORY_BYTES: Final = 512 * 1024 * 1024
"""Two days of three targets (17,280 windows) take 160 MiB and, with four triggers, 26 s of a processor."""
MODULE: Final = "services.console.adapters.replay_worker"
_REFUSED: Final = {
    "deadline_passed": "took longer than its limit of {limit_s:g} s",
    "out_of_memory": "needs more memory than its limit of {memory_mib} MiB",
}


class ChildReplays:
    """Runs each replay in a process of its own.

    Args:
        folder: Where the events of the replay and the log of the process are.
        limit_s: Seconds after which it is ended.
    """

    def __init__(self, folder: Path, limit_s: float = LIMIT_S) -> None:
        self._limit_s, self._scratch = limit_s, ScratchDirs(folder)
        self._scratch.remove_stale()
        self._worker = Worker(
            MODULE,
            folder / "replays.log",
            threads=1,
            memory_limit_bytes=MEMORY_BYTES,
            timeout_s=limit_s,
        )

    async def compute(
        self, model: str, triggers: Sequence[Trigger], events: Sequence[Event[Any]], since: datetime
    ) -> ReplayResult:
        """Return what triggers would have done to the recorded events of a model since a time.

        Raises:
            ReplayRefusedError: It took too long, or too much memory.
            Permanent: The process failed.
            Transient: It was killed from outside.
        """
        try:
            async with self._scratch.open("replay") as work:
                await asyncio.to_thread(_write, work, model, triggers, events, since)
                return ReplayResult.model_validate(await self._worker.run([str(work)], scratch=work))
        except ChildKilled as error:
            raise Transient("internal_error", str(error)) from error
        except Permanent as error:
            if error.code not in _REFUSED:
                raise
            limit = _REFUSED[error.code].format(limit_s=self._limit_s, memory_mib=MEMORY_BYTES // 1024**2)
            raise ReplayRefusedError(f"The replay of {model} was ended: it {limit}. {SMALLER}") from error


def _write(work: Path, model: str, triggers: Sequence[Trigger], events: Sequence[Event[Any]], since: datetime) -> None:
    """Write what the process reads: the question, and one event in a line."""
    question = {
        "model": model,
        "since": since.isoformat(),
        "triggers": [trigger.model_dump(mode="json") for trigger in triggers],
    }
    (work / "question.json").write_text(json.dumps(question))
    with (work / "events.jsonl").open("w") as file:
        file.writelines(json.dumps(plain(event)) + "\n" for event in events)
