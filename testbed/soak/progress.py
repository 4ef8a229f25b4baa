"""What a soak has done so far, in a file of its folder, so that a later one goes on with its counts."""

import json
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

FILE = "soak.json"


@dataclass(frozen=True)
class Announced:
    """A checkpoint that was announced.

    Attributes:
        number: from 1, over all sessions.
        model: whose checkpoint it is.
        kind: what is to become of it (`releases.KINDS`).
        run_id: its training run, which names it in the event log.
    """

    number: int
    model: str
    kind: str
    run_id: str


@dataclass
class Progress:
    """Counts over all sessions of a soak; threads share it.

    Attributes:
        seed: what all draws follow from, with the number of the session.
        sessions: how often it was started.
        minutes: time under kills.
        signals: signals sent, by name.
        killed: processes that were ended (SIGKILL, SIGTERM), by part.
        announced: every checkpoint.
        published: the numbers of those whose announcement was acknowledged.
        accepted: when the drill, the cancellation or the rollback of a checkpoint was accepted, by its number.
        answers: answers of the gateways by status; 0 where there was none.
    """

    seed: int
    sessions: int = 0
    minutes: float = 0.0
    signals: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    announced: list[Announced] = field(default_factory=list)
    published: set[int] = field(default_factory=set)
    accepted: dict[int, datetime] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def kills(self) -> int:
        """How many processes were ended; SIGSTOP ends none."""
        return sum(self.killed.values())

    def announce(self, model: str, kind: str) -> Announced:
        """Note a checkpoint before it is announced, and return it."""
        with self.lock:
            number = len(self.announced) + 1
            announced = Announced(number, model, kind, f"soak-{self.seed}-{number}")
            self.announced.append(announced)
        return announced

    def note_published(self, announced: Announced) -> None:
        """Note that the announcement of a checkpoint was acknowledged."""
        with self.lock:
            self.published.add(announced.number)

    def note_accepted(self, announced: Announced, at: datetime) -> None:
        """Note that what was ordered for a checkpoint was accepted."""
        with self.lock:
            self.accepted[announced.number] = at

    def save(self, folder: Path) -> None:
        """Write the file."""
        with self.lock:
            plain = {
                "seed": self.seed,
                "sessions": self.sessions,
                "minutes": round(self.minutes, 2),
                "signals": dict(self.signals),
                "killed": dict(self.killed),
                "announced": [asdict(each) for each in self.announced],
                "published": sorted(self.published),
                "accepted": {str(number): at.isoformat() for number, at in self.accepted.items()},
                "answers": dict(self.answers),
            }
            draft = folder / f".{FILE}"
            draft.write_text(json.dumps(plain, indent=1))
            draft.replace(folder / FILE)


def load(folder: Path) -> Progress | None:
    """Return what the soak of a folder has done; None if there was none."""
    try:
        plain = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return None
    return Progress(
        seed=plain["seed"],
        sessions=plain["sessions"],
        minutes=plain["minutes"],
        signals=Counter(plain["signals"]),
        killed=Counter(plain["killed"]),
        announced=[Announced(**each) for each in plain["announced"]],
        published=set(plain["published"]),
        accepted={int(number): datetime.fromisoformat(at) for number, at in plain.get("accepted", {}).items()},
        answers=Counter(plain["answers"]),
    )
