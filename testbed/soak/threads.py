"""The threads of a session: one that ends by an error ends the session, as a violation."""

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import Any


class Threads:
    """Makes threads whose errors are kept.

    Attributes:
        is_interrupted: whether one has ended by an error, or the session was interrupted; it then kills no more, and
            judges. A plain attribute: a handler of a signal must take no lock.
        failures: what ended by which error, as sentences.
    """

    def __init__(self) -> None:
        self.is_interrupted = False
        self.failures: list[str] = []

    def make(self, name: str, run: Callable[..., None], *arguments: Any) -> threading.Thread:
        """Return a thread that is not started."""
        return threading.Thread(target=self._run, args=(name, run, arguments), name=name, daemon=True)

    def _run(self, name: str, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            run(*arguments)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - kept, whatever it is
            traceback.print_exc()
            self.failures.append(f"{name} ended by {error!r}")
            self.is_interrupted = True
