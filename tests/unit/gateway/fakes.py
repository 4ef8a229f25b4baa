"""Stand-ins for the gateway's ports; engine and sink pass the same conformance suites as the real ones."""

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from contracts.facts import MirroredPair
from services.gateway.domain import features
from shared.errors import Permanent, SlipwayError, Transient
from shared.serving.openai_stream import ApiPiece, ApiRequest


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


_SOURCES = {
    "schema_too_costly": "validation",
    "schemas_busy": "validation",
    "bad_request": "validation",
    "engine_failed": "engine",
    "template_failed": "template",
    "template_refused": "template_refused",
}
"""Failures that the backend reports in a record, with their sources; the client raises all others."""


@dataclass
class FakeEngine:
    """Answers with numbered words; endpoints and targets can be made to fail.

    Attributes:
        loaded: names of the targets it has; None means any.
        failures: errors per endpoint, before the first piece, one per attempt.
        break_after: an error after so many pieces.
        poison: errors for requests that hold a text, whatever the endpoint.
        faulty: the targets that have that poison; None means all.
        gate: pieces after the first wait for it.
        honours_stop: end an answer, as the real one, where one of the stop sequences begins; what comes before is kept.
        record: what each record holds in addition.
        stalled: endpoints whose server answers nothing; requests to them wait.
        gone: endpoints that refuse connections.
        kept: the endpoints whose connections were to be kept, each time.
    """

    loaded: set[str] | None = None
    failures: dict[str, list[SlipwayError]] = field(default_factory=dict)
    break_after: tuple[int, SlipwayError] | None = None
    poison: dict[str, SlipwayError] = field(default_factory=dict)
    faulty: set[str] | None = None
    gate: asyncio.Event | None = None
    honours_stop: bool = False
    record: dict[str, object] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    requests: list[ApiRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    awaited: list[str] = field(default_factory=list)
    stalled: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    kept: list[frozenset[str]] = field(default_factory=list)

    async def send(self, endpoint, target, request):
        body = json.loads(request.body)
        text = text_of(body)
        self.calls.append((endpoint, str(target), text))
        self.requests.append(request)
        while endpoint in self.stalled:
            await asyncio.sleep(0.01)
        error = self._find_error(endpoint, target, text)
        if error is not None:
            yield report(error)
            return
        form = Form(request, target, body)
        count, done, input_tokens = form.max_tokens, False, max(1, len(text.split()))
        try:
            for index in range(count):
                if self._breaks(index, target):
                    yield report(self.break_after[1], form.head, form.stream)
                    done = True
                    return
                if self.gate is not None and index > 0:
                    await self.gate.wait()
                stopped = self.honours_stop and f"w{index}" in (body.get("stop") or ())
                word, done = "" if stopped else f"w{index} ", stopped or index == count - 1
                record = {"prompt_tokens": input_tokens, "output_tokens": index + 1, **self.record}
                record |= {"texts": [["0.0", word]]} if word else {}
                record |= {"finish_reasons": {"0.0": "stop" if stopped else "length"}} if done else {}
                yield form.piece(word, record)
                if done:
                    yield form.last(record)
                    return
        finally:
            if not done:
                self.aborted.append(request.request_id)

    def _find_error(self, endpoint, target, text):
        if self.failures.get(endpoint):
            return self.failures[endpoint].pop(0)
        for poison, error in self.poison.items():
            if poison in text and (self.faulty is None or str(target) in self.faulty):
                return error
        if self.loaded is not None and str(target) not in self.loaded:
            return Transient("endpoint_unreachable", f"{target} is not loaded there")
        return None

    def _breaks(self, index, target):
        return (
            self.break_after is not None
            and index == self.break_after[0]
            and (self.faulty is None or str(target) in self.faulty)
        )

    async def await_reconnect(self, endpoint):
        self.awaited.append(endpoint)

    async def keep_only(self, endpoints):
        self.kept.append(frozenset(endpoints))

    async def is_live(self, endpoint, limit_s):
        if endpoint in self.stalled:
            await asyncio.sleep(limit_s)
            return None
        return endpoint not in self.gone


def text_of(body):
    """Return the text of a request: its prompt, or the contents of its messages."""
    contents = [message["content"] for message in body.get("messages", ())]
    if "input" in body:
        return str(body["input"])
    return str(body["prompt"]) if "prompt" in body else "\n".join(str(content) for content in contents)


def report(error, head=(None, ()), stream=False):
    """Return the piece with which the backend reports an error, before the answer or in it; raise a client's error."""
    source = _SOURCES.get(error.code)
    if source is None or error.details:
        raise error
    kind = "EngineDeadError" if error.code == "engine_dead" else "Error"
    kind = error.code if error.code in {"schema_too_costly", "schemas_busy"} else kind
    body = json.dumps({"error": {"message": error.reason, "type": kind, "param": None, "code": 400}}).encode()
    record = {"error": {"class": kind, "source": source}}
    begun = head == (None, ())
    status = (400 if isinstance(error, Permanent) or source == "template" else 500) if begun else None
    return ApiPiece(b"data: " + body + b"\n\n" if stream else body, record, status, JSON_HEADERS if begun else ())


JSON_HEADERS = (("content-type", "application/json"),)
EVENT_HEADERS = (("content-type", "text/event-stream; charset=utf-8"),)


class Form:
    """Writes one answer as the engine's application does."""

    def __init__(self, request, target, body):
        self.stream = body.get("stream") is True
        self.chat = request.path == "/v1/chat/completions"
        self.usage = (body.get("stream_options") or {}).get("include_usage")
        self.max_tokens = body.get("max_tokens") or body.get("max_completion_tokens") or 2048
        self.common = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{request.request_id}",
            "created": 1,
            "model": request.model,
            "system_fingerprint": f"fp_{target}.00000000",
        }
        self.words = ""
        self.head = (None, ())

    def _event(self, choices, usage=None):
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        more = {} if usage is None else {"usage": usage}
        return b"data: " + json.dumps({**self.common, "object": kind, "choices": choices, **more}).encode() + b"\n\n"

    def _choice(self, word, reason=None):
        text = {"delta": {"content": word} if word else {}} if self.chat else {"text": word}
        return [{"index": 0, **text, "logprobs": None, "finish_reason": reason}]

    def _start(self):
        started, self.head = self.head != (None, ()), (200, EVENT_HEADERS if self.stream else JSON_HEADERS)
        return (None, ()) if started else self.head

    def piece(self, word, record):
        self.words += word
        if not self.stream:  # as vLLM does: their texts come at the end
            return ApiPiece(b"", {name: value for name, value in record.items() if name != "texts"})
        status, headers = self._start()
        role = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
        body = self._event(role) if status and self.chat else b""
        return ApiPiece(body + self._event(self._choice(word)), record, status, headers)

    def last(self, record):
        counts = {"prompt_tokens": record["prompt_tokens"], "completion_tokens": record["output_tokens"]}
        usage = {**counts, "total_tokens": sum(counts.values())}
        reason = record["finish_reasons"]["0.0"]
        if self.stream:
            record = {name: value for name, value in record.items() if name not in {"texts", "finish_reasons"}}
        else:
            record = {**record, "texts": [["0.0", self.words]]}
        status, headers = self._start()
        if self.stream:
            body = self._event(self._choice("", reason)) + (self._event([], usage) if self.usage else b"")
            return ApiPiece(body + b"data: [DONE]\n\n", record, status, headers)
        text = {"message": {"role": "assistant", "content": self.words}} if self.chat else {"text": self.words}
        choice = {"index": 0, **text, "logprobs": None, "finish_reason": reason}
        kind = "chat.completion" if self.chat else "text_completion"
        body = {**self.common, "object": kind, "choices": [choice], "usage": usage}
        return ApiPiece(json.dumps(body).encode(), record, status, headers)


@dataclass
class FakeTelemetry:
    """Keeps the records."""

    records: list = field(default_factory=list)
    pairs: list = field(default_factory=list)
    problem: str | None = None

    def record(self, record):
        (self.pairs if isinstance(record, MirroredPair) else self.records).append(record)


def _described(record, texts):
    return record.model_copy(update={"features": features.describe(texts, lambda _text: None).features})


@dataclass
class InlineFeatures:
    """Describes texts at once."""

    telemetry: FakeTelemetry

    def submit(self, record, *texts, draw_id):  # noqa: ARG002 - all are described
        if isinstance(record, MirroredPair):
            served, mirrored = map(_described, (record.served, record.mirrored), texts)
            record = record.model_copy(update={"served": served, "mirrored": mirrored})
        else:
            record = _described(record, *texts)
        self.telemetry.record(record)


@dataclass
class FakeSink:
    """Keeps what is published; `down` makes it fail, and `refused` names a model whose batches it never takes."""

    down: bool = False
    refused: str = ""
    batches: dict[str, tuple] = field(default_factory=dict)
    attempts: list[str] = field(default_factory=list)

    async def publish(self, batch, *, model, environment, batch_id):
        self.attempts.append(batch_id)
        if self.down:
            raise Transient("bus_unavailable", "away")
        if model == self.refused:
            raise Permanent("too_large", "refused")
        self.batches[batch_id] = (model, environment, batch)
