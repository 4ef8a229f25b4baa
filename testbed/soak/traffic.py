"""Light traffic on every model through all gateways, and which version answered each request."""

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import httpx

from clients.cli.releases.names import FINGERPRINT
from shared.runtime.clock import SystemClock
from testbed.soak.progress import Progress
from testbed.soak.threads import Threads
from testbed.stack import Stack

TIMEOUT_S = 20.0
UNSERVED_S = 2.0
"""How often a model is asked that has not answered yet; those requests do not count."""


@dataclass(frozen=True)
class Answer:
    """A request that was answered.

    Attributes:
        target: what the gateway says answered: `MODEL.vN.VARIANT`.
        engine: what the engine's own fingerprint names; empty if the answer has none.
        rescued: whether the fallback answered after a failure, and the gateway says so.
    """

    model: str
    sent_at: datetime
    ended_at: datetime
    target: str
    engine: str = ""
    rescued: bool = False


class Traffic:
    """Callers that ask until they are stopped: one a model, at the gateways in turn."""

    def __init__(self, stack: Stack, progress: Progress, models: list[str], rps: float, threads: Threads) -> None:
        self._stack, self._progress, self._rps = stack, progress, rps
        self._stop = threading.Event()
        self._headers = stack.headers
        fresh = httpx.Limits(max_keepalive_connections=0)  # a kept connection would end with the gateway
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False, verify=False, limits=fresh)
        self._threads = [threads.make(f"the caller of {model}", self._run, model) for model in models]
        self._clock = SystemClock()
        self.answers: list[Answer] = []
        self.statuses: Counter[str] = Counter()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_S)

    def ask(self, model: str, gateway: str, user: str) -> str:
        """Ask a model at a gateway; return the status, or what the connection failed with."""
        body = {"model": model, "prompt": f"hello from {user}", "max_tokens": 4, "user": user}
        url = f"http://127.0.0.1:{self._stack.part(gateway)['port']}/v1/completions"
        sent_at = self._clock.now()
        try:
            reply = self._client.post(url, json=body, headers=self._headers)
        except httpx.HTTPError as error:
            return type(error).__name__
        if reply.status_code == 200:
            engine = FINGERPRINT.match(reply.json().get("system_fingerprint") or "")
            self.answers.append(
                Answer(
                    model,
                    sent_at,
                    self._clock.now(),
                    reply.headers["x-slipway-version"],
                    f"{engine['model']}.v{engine['version']}.{engine['variant']}" if engine else "",
                    "x-slipway-rescued" in reply.headers,
                )
            )
        return str(reply.status_code)

    def _run(self, model: str) -> None:
        is_served = False
        for number in itertools.count():
            began = time.monotonic()
            status = self._ask_in_turn(model, number)
            is_served = is_served or status == "200"
            if is_served:
                self._count(status)
            interval_s = 1 / self._rps if is_served else UNSERVED_S
            if self._stop.wait(max(0.0, interval_s - (time.monotonic() - began))):
                return

    def _count(self, status: str) -> None:
        with self._progress.lock:
            self._progress.answers[status] += 1
        self.statuses[status] += 1

    def _ask_in_turn(self, model: str, number: int) -> str:
        """Ask at one gateway and, where nothing listens, at the other one, as a load balancer would."""
        gateways = ("gateway", "gateway-2") if number % 2 else ("gateway-2", "gateway")
        for gateway in gateways:
            try:
                status = self.ask(model, gateway, f"user-{number}")
            except (OSError, ValueError):  # the table of parts is being replaced
                status = "ConnectError"
            if status != "ConnectError":
                break
        return status
