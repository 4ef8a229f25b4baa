"""Callers of two gateways, who ask the other one when the first does not answer, or answers with a 5xx."""

import threading
import time
from collections import Counter

import httpx

from testbed.users import Users

ATTEMPT_S = 10.0
"""How long a caller waits for one gateway before it asks the other one."""


class CallersOfTwoHosts(Users):
    """Callers that ask a gateway of another host when one cannot be reached, is silent, or answers with a 5xx.

    Attributes:
        second_tries: Why a first try was none, by the name of the error or its code.
        longest_gap_s: The longest time without any answer.
        last_since: Since when all answers are of the release `last`, on the monotonic clock.
    """

    def __init__(self, urls: list[str], headers: dict[str, str], model: str, rps: float = 4.0) -> None:
        super().__init__(urls[0], headers, model, rps)
        self._urls = urls
        self._lock = threading.Lock()
        self._answered_at = time.monotonic()
        self.second_tries: Counter[str] = Counter()
        self.longest_gap_s = self.last_since = 0.0

    def begin(self) -> None:
        """Count from now on."""
        with self._lock:
            self.second_tries.clear()
            self.answered.clear()
            self.failed.clear()
            self.longest_gap_s, self._answered_at = 0.0, time.monotonic()

    def _ask(self, number: int) -> None:
        turn = number % len(self._urls)
        reasons = []
        for url in (*self._urls[turn:], *self._urls[:turn]):
            reason = self._try(url, number)
            if not reason:
                return
            reasons.append(reason)
            self.second_tries[reason] += 1
        self.failed.append(", then ".join(reasons))

    def _try(self, url: str, number: int) -> str:
        """Ask a gateway; return why it gave no answer, or nothing."""
        body = {"model": self._model, "prompt": "hello", "max_tokens": 4, "user": f"user-{number}"}
        try:
            answer = httpx.post(
                f"{url}/v1/completions", json=body, headers=self._headers, timeout=ATTEMPT_S, trust_env=False
            )
        except httpx.HTTPError as error:
            return type(error).__name__
        if answer.is_error:
            return f"{answer.status_code} {_code(answer)}"
        with self._lock:
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - self._answered_at)
            self._answered_at = now
            release = answer.headers["x-slipway-release"]
            if release != self.last:
                self.last, self.last_since = release, now
            self.answered[release] += 1
        return ""


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:80]
