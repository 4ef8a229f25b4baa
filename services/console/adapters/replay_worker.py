"""The child process that computes one replay: a question and events of the log in, the result out."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from contracts.policy import Trigger
from decisions.replay.engine import replay
from services.console.domain.logged import parse_stored
from services.console.domain.replay_screen import result_of
from shared.runtime.worker import confine, job_main

NICENESS: Final = 10
"""Pages of the console go before it."""


def compute(argv: list[str]) -> dict[str, Any]:
    """Return the result of the replay in a folder."""
    folder = Path(argv[0])
    os.nice(NICENESS)
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # without memory, it ends, not the console
    confine(read=[folder])
    question = json.loads((folder / "question.json").read_text())
    triggers = tuple(Trigger.model_validate(trigger) for trigger in question["triggers"])
    with (folder / "events.jsonl").open() as lines:
        events = [event for line in lines if (event := parse_stored(line)) is not None]
    since = datetime.fromisoformat(question["since"])
    replayed = replay(triggers, events, since=since)
    return result_of(question["model"], replayed, triggers, since).model_dump(mode="json")


if __name__ == "__main__":
    job_main(compute)
