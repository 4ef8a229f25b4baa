"""The OpenAI API of the toy engine: chat and completions, answered in vLLM's form, with the same records.

Sampling parameters have no effect: the text depends on the model folder, the prompt and the number of the answer. If
`tool_choice` requires a call, the answer is a call with arguments made from the function's schema. Structured outputs
are refused.

Texts in a prompt that make a request fail, by their parameters in config.pbtxt:
    template_fails_text: status 400, as vLLM for a failing chat template; the record's source is `template`.
    fail_text: status 500 before the first token; the source is `engine`.
    break_text: the same after the second token, in a stream as an event.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import openai_checks
from engine_tensors import HttpAsk, HttpPiece
from toy_answers import DONE, AnswerFormat, Record, TextAnswer, event
from toy_engine import EngineDeadError, ToyEngine
from toy_requests import Asked, RequestError, read

from decisions.openai.limits import CostLimits, Refusal

KINDS = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
PROGRESS_S = 0.5
"""Time between two records of an answer that is not streamed, in seconds."""
BREAKS_AFTER = 2
STREAM_HEADERS = (("content-type", "text/event-stream; charset=utf-8"),)


class EngineGenerateError(Exception):
    """The engine fails for this request."""


class ToyApi:
    """The paths of the OpenAI API that the toy engine answers."""

    def __init__(self, engine: ToyEngine, api: Mapping[str, Any]) -> None:
        """Use an engine and the settings of the API: `model`, `fingerprint` and `limits`."""
        self._engine = engine
        self._model = api.get("model") or "model"
        self._fingerprint = api.get("fingerprint")
        self._rules = openai_checks.Rules(KINDS, engine.context_tokens, CostLimits(**api.get("limits", {})))
        self._judging = openai_checks.JudgingThread()

    async def answer(self, ask: HttpAsk, send: Callable[[HttpPiece], None], is_cancelled: Callable[[], bool]) -> None:
        """Answer a request; the last piece is marked. Nothing is sent after a cancellation."""
        reply = _Reply(send)
        try:
            async with asyncio.timeout(ask.deadline_s):
                body = await openai_checks.judge_apart(ask, self._rules, self._judging)
                if isinstance(body, Refusal):
                    send(openai_checks.refuse(body))
                    return
                await self._generate(ask, body, reply, is_cancelled)
        except RequestError as error:
            reply.fail(error, error.status, error.kind, error.source, error.field)
        except (EngineDeadError, EngineGenerateError) as error:
            reply.fail(error, 500, "InternalServerError", "engine")
        except TimeoutError:
            reply.end_late(ask.deadline_s)

    async def _generate(
        self, ask: HttpAsk, body: Mapping[str, Any], reply: "_Reply", is_cancelled: Callable[[], bool]
    ) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        names = [ask.model or self._model]
        if ask.model is not None and isinstance(body.get("model"), str):
            names.append(body["model"])  # the gateway has judged it
        asked = read(KINDS[ask.path], body, engine, names)
        began_s, reported_s = loop.time(), 0.0
        answers = self._plan(asked)
        record = reply.record
        record.prompt_tokens = asked.prompt_tokens
        record.logprob_mean = engine.answer_logprob if asked.top is not None else None
        form = AnswerFormat(asked, ask.request_id, names[0], self._fingerprint, engine.answer_logprob)
        steps = 0
        while growing := [answer for answer in answers if answer.reason is None]:
            await engine.wait_for_token(steps)
            if is_cancelled():
                return
            engine.raise_if_dead()
            self._fail_on_purpose(asked, steps)
            steps += 1
            grown = [(answer, answer.grow(asked)) for answer in growing]
            for answer, delta in grown:
                record.note(answer, delta)
            if steps == 1:
                record.first_token_ms = (loop.time() - began_s) * 1000
            is_last = all(answer.reason is not None for answer in answers)
            if asked.stream:
                reply.write(form.events(grown) + (form.last_events(answers) if is_last else b""), last=is_last)
            elif is_last:
                reply.respond(form.whole(answers))
            elif steps == 1 or loop.time() - reported_s >= PROGRESS_S:
                reported_s = loop.time()
                reply.report()

    def _plan(self, asked: Asked) -> list[TextAnswer]:
        """Return the answers before their first token."""
        answers = []
        for index, prompt in enumerate(asked.prompts):
            self._engine.take_prompt(prompt)
            for number in range(asked.answers):
                seed = self._engine.seed + prompt + (f"/{number}" if number else "")
                mute = self._engine.holds("mute_text", prompt)
                answers.append(TextAnswer(len(answers), f"{index}.{number}", seed, mute))
        return answers

    def _fail_on_purpose(self, asked: Asked, steps: int) -> None:
        for prompt in asked.prompts:
            for switch, after in (("fail_text", 0), ("break_text", BREAKS_AFTER)):
                if steps == after and self._engine.holds(switch, prompt):
                    raise EngineGenerateError(f"the prompt contains the {switch}")


class _Reply:
    """The pieces of one answer, each with the record since the last one."""

    def __init__(self, send: Callable[[HttpPiece], None]) -> None:
        self.record = Record()
        self._send = send
        self._started = False

    def report(self) -> None:
        """Send a record without bytes."""
        self._send(HttpPiece(b"", self.record.take()))

    def write(self, body: bytes, *, last: bool) -> None:
        """Send a part of a stream."""
        status, headers = (None, ()) if self._started else (200, STREAM_HEADERS)
        self._started = True
        self._send(HttpPiece(body, self.record.take(), status, headers, last=last))

    def respond(self, body: bytes, status: int = 200) -> None:
        """Send a whole answer."""
        self._started = True
        self._send(HttpPiece(body, self.record.take(), status, openai_checks.JSON_HEADERS, last=True))

    def fail(self, error: Exception, status: int, kind: str, source: str, field: str | None = None) -> None:
        """Send an error: a whole answer, or the last event of a stream that has begun."""
        self.record.error = {"class": type(error).__name__, "source": source}
        body = {"error": {"message": str(error), "type": kind, "param": field, "code": status}}
        if self._started:
            self.write(event(body) + DONE, last=True)
        else:
            self.respond(json.dumps(body).encode(), status)

    def end_late(self, deadline_s: float) -> None:
        """End an answer after its deadline: with status 504, or by an early end of the stream."""
        self.record.error = {"class": "DeadlineExceeded", "source": "deadline"}
        if self._started:
            self.write(b"", last=True)
        else:
            self.respond(openai_checks.late_body(deadline_s), 504)
