"""The two endpoints that generate text: understand the request, choose the target, answer, report."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from contracts.facts import Inference
from contracts.routes import ServedTarget
from contracts.vocabulary import Environment
from shared.clock import Clock
from shared.errors import SlipwayError

from .answering import Answer, Question
from .domain import answers, drills, environments, errors, requests, routing
from .domain.errors import Problem, Refused
from .domain.requests import Ask
from .drill_table import DrillTable
from .http import EventStream, problem_response, read_body, until_disconnect
from .metrics import GatewayMetrics
from .ports import Engine, NewId, Pause, TemplateFailure, TemplateRefusal, Templates
from .route_table import RouteTable

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


@dataclass(frozen=True)
class Parts:
    """What the endpoints work with; `tables` holds the routes of each environment."""

    tables: Mapping[Environment, RouteTable]
    drills: DrillTable
    engine: Engine
    templates: Templates
    record: Callable[[Inference], None]
    metrics: GatewayMetrics
    clock: Clock
    new_id: NewId
    max_in_flight: int
    max_body_bytes: int
    pause: Pause = asyncio.sleep


class Completions:
    """`/v1/chat/completions` or `/v1/completions`, as an ASGI application."""

    def __init__(self, kind: Literal["chat", "completion"], parts: Parts) -> None:
        self._kind = kind
        self._parts = parts
        self._in_flight: Counter[Environment] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        parts = self._parts
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else parts.new_id()
        environment: Environment | None = None
        try:
            environment = environments.read_environment(request.headers.getlist(environments.HEADER))
            with self._counted(environment):
                question = await self._understand(request, request_id, environment)
                await until_disconnect(receive, self._answer(question, scope, receive, send))
        except Refused as refused:
            parts.metrics.refuse(refused.problem.status, environment)
            await problem_response(refused.problem, {"x-request-id": request_id})(scope, receive, send)

    @contextlib.contextmanager
    def _counted(self, environment: Environment) -> Iterator[None]:
        gauge = self._parts.metrics.in_flight.labels(environment)
        self._in_flight[environment] += 1
        gauge.inc()
        try:
            yield
        finally:
            self._in_flight[environment] -= 1
            gauge.dec()

    async def _understand(self, request: Request, request_id: str, environment: Environment) -> Question:
        parts = self._parts
        arrived_at, arrived_s = parts.clock.now(), parts.clock.monotonic()
        if self._in_flight[environment] > parts.max_in_flight:
            headers = {"Retry-After": "1"}
            raise Refused(Problem(429, "Too many requests at once.", "rate_limit_error", headers=headers))
        body = requests.parse_body(await read_body(request, parts.max_body_bytes))
        ask = requests.read_chat(body) if self._kind == "chat" else requests.read_completion(body)
        choice = choose(parts.tables[environment], ask.model, key=ask.user or request_id)
        sampling = requests.plan_sampling(ask, choice.served.context_tokens)
        prompt = await self._render(ask, choice.served)
        target = choice.served.target
        known = parts.drills.get(environment, target.model)
        return Question(
            request_id=request_id, ask=ask, choice=choice, prompt=prompt, sampling=sampling, arrived_at=arrived_at,
            arrived_s=arrived_s, environment=environment,
            touch=drills.decide_touch(known, target, request_id, arrived_at, arrived_s),
        )  # fmt: skip

    async def _render(self, ask: Ask, served: ServedTarget) -> str:
        if ask.kind == "completion":
            return ask.prompt
        if served.chat_template is None:
            message = f"{ask.model} has no chat template; use /v1/completions."
            raise errors.bad_request(message, "model", "no_chat_template")
        try:
            return await self._parts.templates.render(
                served.chat_template, ask.messages, bos_token=served.bos_token or "", eos_token=served.eos_token or ""
            )
        except TemplateRefusal as refusal:
            raise errors.bad_request(str(refusal), "messages") from refusal
        except TemplateFailure as failure:
            raise Refused(Problem(500, str(failure), "server_error", code="template_failed")) from failure

    async def _answer(self, question: Question, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(question, self._parts.engine, self._parts.clock, self._parts.pause)
        headers = labels(question)
        events = EventStream(send, headers)
        error: str | None = None
        cancelled = False
        try:
            await answer.start()
            if question.ask.stream:
                await self._stream(answer, question, events)
            else:
                text = "".join([text async for text in answer.texts()])
                body = self._shape(question).whole(text, answer.finish_reason, answer.usage)
                await JSONResponse(body, headers=headers)(scope, receive, send)
        except SlipwayError as failure:
            problem = errors.upstream_failed(failure.code, failure.reason)
            error = None if problem.status == 400 else failure.code
            if events.started:  # the status is gone; clients read an error event as a failed request
                await events.write(answers.event(problem.body()))
                await events.end()
            else:
                await problem_response(problem, headers)(scope, receive, send)
        except (asyncio.CancelledError, OSError):
            cancelled = True
            raise
        except Exception:
            error = "internal_error"
            raise
        finally:
            await answer.close()
            self._report(answer, error, cancelled=cancelled)

    async def _stream(self, answer: Answer, question: Question, events: EventStream) -> None:
        shape = self._shape(question)
        for chunk in shape.opening():
            await events.write(answers.event(chunk))
        async for text in answer.texts():
            await events.write(answers.event(shape.piece(text)))
        for chunk in shape.closing(answer.finish_reason, answer.usage):
            await events.write(answers.event(chunk))
        await events.write(answers.DONE)
        await events.end()

    def _shape(self, question: Question) -> answers.Shape:
        prefix = "chatcmpl-" if self._kind == "chat" else "cmpl-"
        return answers.Shape(
            kind=self._kind, id=prefix + question.request_id, created=int(question.arrived_at.timestamp()),
            model=question.ask.model, fingerprint=routing.fingerprint(question.choice.served),
            include_usage=question.ask.include_usage,
        )  # fmt: skip

    def _report(self, answer: Answer, error: str | None, *, cancelled: bool) -> None:
        record = answer.report(error=error, cancelled=cancelled)
        self._parts.metrics.observe(record)
        if answer.retried:
            self._parts.metrics.retries.labels(record.environment).inc()
        self._parts.record(record)


def choose(table: RouteTable, name: str, key: str) -> routing.Choice:
    """Find the target for a model name as it stands in a request.

    Raises:
        Refused: 404 for a model or version that is not there, 503 for a model that nothing serves.
    """
    wanted = routing.parse_name(name)
    route = table.get(wanted.model) if wanted else None
    if wanted is None or route is None:
        raise Refused(errors.model_not_found(name))
    if wanted.version is not None:
        pinned = routing.choose_pinned(route, wanted.version)
        if pinned is None:
            raise Refused(errors.model_not_found(name))
        return pinned
    chosen = routing.choose_target(route, key)
    if chosen is None:
        raise Refused(errors.nothing_serves(wanted.model))
    return chosen


def labels(question: Question) -> Mapping[str, str]:
    """Give the headers that say who answered, and whether a drill had a hand in it."""
    target = question.choice.served.target
    return {
        "x-request-id": question.request_id,
        "x-slipway-version": str(target),
        "x-slipway-release": f"{target.model}@v{target.version}",
        **(question.touch.headers if question.touch else {}),
    }
