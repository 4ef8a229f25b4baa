"""Stand-ins for the gateway's ports; engine, templates and sink pass the same conformance suites as the real ones."""

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.gateway.ports import PROBE_CONVERSATIONS, MessagesRejected, TemplateFailed
from shared.errors import Permanent, SlipwayError, Transient
from shared.serving.chat_template_worker import answer
from shared.serving.tensors import Delta, encode_text


class StepClock:
    """Moves by one millisecond each time it is read, and by every pause."""

    def __init__(self) -> None:
        self._reads = itertools.count()
        self._start = datetime(2026, 3, 4, tzinfo=UTC)
        self._paused_s = 0.0

    def now(self):
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self):
        return next(self._reads) / 1000.0 + self._paused_s

    async def pause(self, delay_s):
        self._paused_s += delay_s


@dataclass
class FakeEngine:
    """Answers with numbered words; endpoints and targets can be made to fail.

    Attributes:
        loaded: names of the targets it has; None means any.
        failures: errors to raise per endpoint, before the first piece, one per attempt.
        break_after: error to raise after so many pieces.
        poison: errors to raise for prompts that hold a text, whatever the endpoint.
        faulty: the targets that have that poison; None means all.
        gate: pieces after the first wait for it.
        honours_stop: end an answer, as the real one, where one of the stop sequences begins; what comes before is kept.
    """

    loaded: set[str] | None = None
    failures: dict[str, list[SlipwayError]] = field(default_factory=dict)
    break_after: tuple[int, SlipwayError] | None = None
    poison: dict[str, SlipwayError] = field(default_factory=dict)
    faulty: set[str] | None = None
    gate: asyncio.Event | None = None
    honours_stop: bool = False
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    awaited: list[str] = field(default_factory=list)

    async def generate(self, endpoint, target, prompt, sampling, request_id):
        self.calls.append((endpoint, str(target), prompt))
        if self.failures.get(endpoint):
            raise self.failures[endpoint].pop(0)
        for text, error in self.poison.items():
            if text in prompt and (self.faulty is None or str(target) in self.faulty):
                raise error
        if self.loaded is not None and str(target) not in self.loaded:
            raise Transient("endpoint_unreachable", f"{target} is not loaded there")
        encode_text(prompt)
        if not isinstance(sampling["max_tokens"], int):
            raise Permanent("bad_request", "max_tokens must be an integer")
        count, done = sampling["max_tokens"], False
        try:
            for index in range(count):
                if (
                    self.break_after is not None
                    and index == self.break_after[0]
                    and (self.faulty is None or str(target) in self.faulty)
                ):
                    raise self.break_after[1]
                if self.gate is not None and index > 0:
                    await self.gate.wait()
                if self.honours_stop and f"w{index}" in (sampling.get("stop") or ()):
                    done = True
                    yield Delta("", "stop", max(1, len(prompt.split())), 1)
                    return
                done = index == count - 1
                yield Delta(f"w{index} ", "length" if done else None, max(1, len(prompt.split())), 1)
        finally:
            if not done:
                self.aborted.append(request_id)

    async def await_reconnect(self, endpoint):
        self.awaited.append(endpoint)


SLOW = "{# slow #}"
"""Marks a template that takes too long with any message but the harmless ones."""


class InProcessTemplates:
    """Renders without a process of its own, so without limits; otherwise as the real one does."""

    async def render(self, template, messages, *, bos_token, eos_token):
        if SLOW in template and tuple(messages) not in PROBE_CONVERSATIONS:
            raise TemplateFailed("it exceeded the time limit of 2 s", stopped=True)
        variables = {
            "messages": list(messages),
            "add_generation_prompt": True,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        result = answer({"template": template, "now": "2026-03-04T05:06:07+00:00", "variables": variables})
        if "rejected" in result:
            raise MessagesRejected(result["rejected"])
        if "failed" in result:
            raise TemplateFailed(result["failed"])
        return result["text"]

    async def renders_probe(self, template, *, bos_token, eos_token):
        for number, messages in enumerate(PROBE_CONVERSATIONS):
            try:
                (await self.render(template, messages, bos_token=bos_token, eos_token=eos_token)).encode()
            except MessagesRejected:
                if number == 0:
                    return False
            except (TemplateFailed, UnicodeEncodeError):
                return False
        return True


@dataclass
class FakeTelemetry:
    """Keeps the records."""

    records: list = field(default_factory=list)
    problem: str | None = None

    def record(self, record):
        self.records.append(record)


@dataclass
class FakeSink:
    """Keeps what is published; `down` makes it fail."""

    down: bool = False
    batches: dict[str, tuple] = field(default_factory=dict)
    attempts: list[str] = field(default_factory=list)

    async def publish(self, batch, *, model, environment, batch_id):
        self.attempts.append(batch_id)
        if self.down:
            raise Transient("bus_unavailable", "away")
        self.batches[batch_id] = (model, environment, batch)
