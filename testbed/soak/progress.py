"""What a soak has done so far."""

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Announced:
    """A checkpoint that was announced.

    Attributes:
        number: from 1.
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
    """Counts of a soak; threads share it.

    Attributes:
        seed: what all draws follow from.
        minutes: time under kills.
        signals: signals sent, by name.
        killed: processes that were ended (SIGKILL, SIGTERM), by part.
        announced: every checkpoint.
        published: the numbers of those whose announcement was acknowledged.
        answers: answers of the gateways by status; 0 where there was none.
    """

    seed: int
    minutes: float = 0.0
    signals: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    announced: list[Announced] = field(default_factory=list)
    published: set[int] = field(default_factory=set)
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
