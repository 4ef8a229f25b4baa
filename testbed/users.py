"""People who ask a model all the time, through the gateway."""

import ssl
import threading
from collections import Counter
from typing import Self

import httpx


class Users:
    """People who ask all the time, each request with another user: who answered, and what went wrong.

    Args:
        url: Of the gateway.
        headers: With a key.
        model: Whom they ask.
        rps: Requests per second of all.
        prompts: What they ask, in turn.
    """

    def __init__(
        self, url: str, headers: dict[str, str], model: str, rps: float = 8.0, prompts: tuple[str, ...] = ("hello",)
    ) -> None:
        self._prompts = prompts
        self._url, self._headers, self._model = url, headers, model
        self._interval_s = 1.0 / rps
        self._trust = (
            ssl.create_default_context()
        )  # one for all: each request connects anew, and else would make its own
        self._stop = threading.Event()
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.last = ""
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._loop = threading.Thread(target=self._run, daemon=True)
        self._loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._loop.join(30)
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._interval_s):
            thread = threading.Thread(target=self._ask, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)
            number += 1

    def _ask(self, number: int) -> None:
        body = {
            "model": self._model,
            "prompt": self._prompts[number % len(self._prompts)],
            "max_tokens": 4,
            "user": f"user-{number}",
        }
        try:
            answer = httpx.post(
                f"{self._url}/v1/completions",
                json=body,
                headers=self._headers,
                timeout=60,
                trust_env=False,
                verify=self._trust,
            )
            answer.raise_for_status()
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return
        self.last = answer.headers["x-slipway-release"]
        self.answered[self.last] += 1
