"""Two gateways and the bus that are paused, killed and disconnected under load; each request must get its answer."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx

from testbed.containers import engine
from testbed.containers.installation import MODEL, Installation
from testbed.containers.waiting import report, step, wait_for
from testbed.users import Users

ATTEMPT_S = 10.0
"""How long a caller waits for one gateway before it asks the other one."""
AWAY_S = 15.0
"""How long a container is paused or disconnected; longer than the 5 s after which what hangs is killed."""

RECOVERED_S = 180.0
"""Longest wait for all health checks after a failure."""


class CallersOfTwo(Users):
    """Callers that ask the other gateway when one cannot be reached or does not answer in time."""

    def __init__(self, urls: list[str], headers: dict[str, str], model: str) -> None:
        super().__init__(urls[0], headers, model)
        self._urls = urls
        self.second_tries: Counter[str] = Counter()

    def _ask(self, number: int) -> None:
        body = {"model": self._model, "prompt": "hello", "max_tokens": 4, "user": f"user-{number}"}
        turn = number % len(self._urls)
        for url in (*self._urls[turn:], *self._urls[:turn]):
            try:
                answer = httpx.post(
                    f"{url}/v1/completions", json=body, headers=self._headers, timeout=ATTEMPT_S, trust_env=False
                )
                answer.raise_for_status()
            except httpx.TransportError as error:
                self.second_tries[type(error).__name__] += 1
            except httpx.HTTPStatusError as error:
                self.failed.append(f"{error!r} {error.response.text[:200]}")
                return
            else:
                self.last = answer.headers["x-slipway-release"]
                self.answered[self.last] += 1
                return
        self.failed.append("neither gateway answered")


@dataclass
class Failures:
    """Failures of single containers, one after the other, under load."""

    stack: Installation
    headers: dict[str, str]

    def run(self) -> None:
        """Scale to two gateways, let each container fail, and check that no request was lost."""
        with step("scale the gateway to two, on ports that are free"):
            self.stack.port = 0
            self.stack.up("--scale", "gateway=2", "gateway")
            gateways = sorted(each["Name"] for each in self.stack.containers("gateway"))
            urls = [f"http://127.0.0.1:{published_port(name)}" for name in gateways]
            report(", ".join(f"{name} at {url}" for name, url in zip(gateways, urls, strict=True)))
            wait_for(lambda: all(self._answers(url) for url in urls), 60, "answers of both gateways")
        (bus,) = (each["Name"] for each in self.stack.containers("nats"))
        with CallersOfTwo(urls, self.headers, MODEL) as callers:
            for name in (bus, gateways[0]):
                self._fails(callers, f"pause {name} for {AWAY_S:g} s", lambda name=name: pause(name))
                self._fails(callers, f"kill {name}", lambda name=name: self._kill(name))
            network = f"{self.stack.project}_bus"
            title = f"disconnect {gateways[0]} from the bus for {AWAY_S:g} s; it answers with its last routes"
            with step(title), disconnected(gateways[0], network):
                end = time.monotonic() + AWAY_S
                while time.monotonic() < end:
                    if not self._answers(urls[0]):
                        raise RuntimeError(f"{gateways[0]} answers no request without the bus")
                    time.sleep(1)
            with step(
                "each health check passes: of monitor and rollback-controller, too, whose telemetry the bus lost"
            ):
                self._await_checks()
        if callers.failed:
            raise RuntimeError(f"{len(callers.failed)} requests failed: {callers.failed[:3]}")
        report(f"{sum(callers.answered.values())} requests, all answered; second tries: {dict(callers.second_tries)}")

    def _await_checks(self) -> None:
        """Return when every health check passes at the same time; podman's own state of them may be of before."""
        self.stack.await_ready()
        wait_for(
            lambda: not self.stack.failing_checks(), RECOVERED_S, "passing health checks", self.stack.failing_checks
        )

    def _fails(self, callers: CallersOfTwo, title: str, failure: Callable[[], None]) -> None:
        with step(title):
            before, tries = sum(callers.answered.values()), sum(callers.second_tries.values())
            failure()
            self._await_checks()
            answered = sum(callers.answered.values()) - before
            report(f"{answered} answers meanwhile, {sum(callers.second_tries.values()) - tries} second tries")
            if not answered or callers.failed:
                raise RuntimeError(f"{answered} answers, and these failed: {callers.failed[:3]}")

    def _kill(self, name: str) -> None:
        """End a container's first process by SIGKILL, and return when the container was started again."""
        (before,) = (each for each in self.stack.containers() if each["Name"] == name)
        os.kill(before["State"]["Pid"], signal.SIGKILL)
        started = before["State"]["StartedAt"]
        self.stack.await_ready(
            lambda: any(
                each["Name"] == name and each["State"]["StartedAt"] != started for each in self.stack.containers()
            )
        )

    def _answers(self, url: str) -> bool:
        body = {"model": MODEL, "prompt": "hello", "max_tokens": 4}
        with suppress(httpx.HTTPError):
            answer = httpx.post(f"{url}/v1/completions", json=body, headers=self.headers, timeout=10, trust_env=False)
            return answer.status_code == httpx.codes.OK
        return False


def pause(name: str) -> None:
    """Freeze a container's processes for a while."""
    engine.podman("pause", name)
    try:
        time.sleep(AWAY_S)
    finally:
        engine.podman("unpause", name)


@contextmanager
def disconnected(name: str, network: str) -> Iterator[None]:
    """Take a container off a network while the block runs."""
    engine.podman("network", "disconnect", network, name)
    try:
        yield
    finally:
        engine.podman("network", "connect", network, name)


def published_port(name: str) -> int:
    """Return the port of this machine that a gateway's container answers at."""
    return int(engine.podman("port", name, "8080/tcp").strip().rpartition(":")[2])
