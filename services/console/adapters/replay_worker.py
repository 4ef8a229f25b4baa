"""The child process that computes one replay: a question and events of the log in, the result out."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from contracts.policy import Trigger
from decisions.replay.engine import replay
from services.console.domain.logged import parse_stored
from services.console.domain.replay_screen import result_of
from shared.runtime.worker import confine, job_main


def compute(argv: list[str]) -> dict[str, Any]:
    """Return the result of the replay in a folder."""
    folder = Path(argv[0])
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
