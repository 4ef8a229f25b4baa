"""The two endpoints that generate text: understand the request, choose the target, answer, report."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from contracts.facts import Inference
from contracts.routes import ServedTarget
from contracts.vocabulary import Environment
from decisions.attribution import ATTRIBUTION, PROVABLE, as_error_kind
from services.gateway.answer import Answer, Ending, Question
from services.gateway.backlog import SlowReader
from services.gateway.cross_checks import Failed, Proofs
from services.gateway.domain import answers, drills, environments, errors, requests, routing
from services.gateway.domain.errors import Refused
from services.gateway.drill_table import DrillTable
from services.gateway.http import Bodies, Reply, drop, limit_writes, problem_response, until_disconnect
from services.gateway.metrics import GatewayMetrics
from services.gateway.ports import Engine, NewId, Pause, TemplateBusy, TemplateFailure, TemplateRefusal, Templates
from services.gateway.route_table import RouteTable
from shared.errors import SlipwayError
from shared.runtime.clock import Clock

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LARGE_BODY_BYTES = 2**16


@dataclass(frozen=True)
class Parts:
    """What the endpoints work with.

    Attributes:
        tables: the routes of each environment.
        write_s: how long a caller may take nothing of what is written to it.
        lag_bytes: how much of an answer may wait for its caller.
    """

    tables: Mapping[Environment, RouteTable]
    drills: DrillTable
    engine: Engine
    templates: Templates
    record: Callable[[Inference], None]
    metrics: GatewayMetrics
    clock: Clock
    new_id: NewId
    max_in_flight: int
    bodies: Bodies
    proofs: Proofs
    write_s: float = 30.0
    lag_bytes: int = 2**18
    pause: Pause = asyncio.sleep


class Completions:
    """`/v1/chat/completions` or `/v1/completions`, as an ASGI application."""

    def __init__(self, kind: Literal["chat", "completion"], parts: Parts) -> None:
        self._kind = kind
        self._parts = parts
        self._in_flight: Counter[Environment] = Counter()
        self._parsing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a caller that does not read its answer is dropped."""
        send = limit_writes(send, self._parts.write_s)
        try:
            await self._serve(scope, receive, send)
        except SlowReader:
            self._parts.metrics.slow_readers.inc()
            await drop(scope)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._parts
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else parts.new_id()
        environment: Environment | None = None
        try:
            environment = environments.read_environment(request.headers.getlist(environments.HEADER))
            body = await parts.bodies.read(request)
            with self._place(environment):
                question = await self._understand(body, request_id, environment)
                await until_disconnect(receive, self._answer(question, Reply(scope, receive, send, labels(question))))
        except ClientDisconnect:
            return
        except Refused as refused:
            parts.metrics.refuse(refused.problem.status, environment)
            await problem_response(refused.problem, {"x-request-id": request_id})(scope, receive, send)

    @contextlib.contextmanager
    def _place(self, environment: Environment) -> Iterator[None]:
        """Occupy one of the places of an environment for a while; raise Refused (429) if none is left."""
        gauge = self._parts.metrics.in_flight.labels(environment)
        if self._in_flight[environment] >= self._parts.max_in_flight:
            raise Refused(errors.too_many())
        self._in_flight[environment] += 1
        gauge.inc()
        try:
            yield
        finally:
            self._in_flight[environment] -= 1
            gauge.dec()

    async def _understand(self, raw: bytes, request_id: str, environment: Environment) -> Question:
        parts = self._parts
        body = await self._parse(raw)
        ask = requests.read_chat(body) if self._kind == "chat" else requests.read_completion(body)
        choice = choose(parts.tables[environment], ask.model, key=ask.user or request_id)
        sampling = requests.plan_sampling(ask, choice.served.context_tokens)
        question = Question(
            request_id=request_id,
            ask=ask,
            choice=choice,
            prompt=ask.prompt,
            sampling=sampling,
            arrived_at=parts.clock.now(),
            arrived_s=parts.clock.monotonic(),
            environment=environment,
        )
        if ask.kind == "chat":
            prompt = await self._render(question)
            requests.check_length(prompt, choice.served.context_tokens, "messages")
            question = replace(question, prompt=prompt, arrived_at=parts.clock.now(), arrived_s=parts.clock.monotonic())
        target = choice.served.target
        known = parts.drills.get(environment, target.model)
        touch = drills.decide_touch(known, target, request_id, question.arrived_at, question.arrived_s)
        return replace(question, touch=touch)

    async def _parse(self, raw: bytes) -> dict[str, Any]:
        """Parse a body; a large one in a thread, one at a time, so that the answers in progress go on meanwhile."""
        if len(raw) <= _LARGE_BODY_BYTES:
            return requests.parse_body(raw)
        async with self._parsing:
            return await asyncio.to_thread(requests.parse_body, raw)

    async def _render(self, question: Question) -> str:
        """Render a conversation.

        Raises:
            Refused: 400 where these messages are at fault, 503 where no process was free; 500 where the template
                fails a harmless conversation, too, or breaks on these where that of the version behind does not: that
                alone is the target's doing, and is recorded as such.
        """
        ask, served = question.ask, question.choice.served
        template = served.chat_template
        if template is None:
            message = f"{question.choice.served.target} has no chat template; use /v1/completions."
            raise errors.bad_request(message, "model", "no_chat_template")
        tokens = {"bos_token": served.bos_token or "", "eos_token": served.eos_token or ""}
        try:
            prompt = await self._parts.templates.render(template, ask.messages, **tokens)
            prompt.encode()
        except (TemplateRefusal, TemplateFailure, TemplateBusy, UnicodeEncodeError) as failure:
            plain = await self._parts.templates.renders_plain(template, **tokens)
            refused = isinstance(failure, TemplateRefusal | TemplateBusy)
            if plain is False or (plain and not refused and await self._breaks_alone(question)):
                answer = self._begin(question)
                self._report(answer, Ending(error="template_failed", caused_by="target"))
                raise Refused(replace(errors.template_failed(str(failure)), headers=labels(question))) from failure
            if isinstance(failure, TemplateRefusal):
                raise errors.bad_request(str(failure), "messages", "template_refused") from failure
            if plain is None or isinstance(failure, TemplateBusy):
                raise Refused(errors.template_busy(str(failure))) from failure
            message = f"{failure} It does render a plain conversation; change the messages."
            raise errors.bad_request(message, "messages", "template_refused") from failure
        return prompt

    async def _breaks_alone(self, question: Question) -> bool:
        """Return whether a template breaks, also when tried again, on what the one of the version behind renders."""
        served, behind = question.choice.served, self._behind(question)
        if behind is None or behind.chat_template in (None, served.chat_template):
            return False
        return await self._renders(behind, question) is True and await self._renders(served, question) is False

    async def _renders(self, served: ServedTarget, question: Question) -> bool | None:
        """Return whether the template of a target renders a conversation; None if none was free, or it was stopped.

        A rendering that took too long proves nothing: long messages and a busy machine can cause that.
        """
        tokens = {"bos_token": served.bos_token or "", "eos_token": served.eos_token or ""}
        try:
            (await self._parts.templates.render(served.chat_template or "", question.ask.messages, **tokens)).encode()
        except TemplateBusy:
            return None
        except TemplateFailure as failure:
            return None if failure.stopped else False
        except (TemplateRefusal, UnicodeEncodeError):
            return False
        return True

    def _begin(self, question: Question) -> Answer:
        parts = self._parts
        return Answer(
            question, parts.engine, parts.clock, parts.pause, lag_bytes=parts.lag_bytes, hear=parts.proofs.hear
        )

    async def _answer(self, question: Question, reply: Reply) -> None:
        answer = self._begin(question)
        ending = Ending()
        try:
            try:
                await self._deliver(answer, question, reply)
            except SlipwayError as failure:
                ending = await self._judge(answer, question, failure)
                await _fail(ending, failure, reply)
        except (asyncio.CancelledError, OSError, SlowReader):
            # What the target did before stands; else the caller went away, or does not read.
            ending = ending if ending != Ending() else Ending(cancelled=True, caused_by="caller")
            raise
        except Exception:
            ending = Ending(error="internal_error", caused_by="gateway")
            raise
        finally:
            await answer.close()
            self._report(answer, ending)

    async def _deliver(self, answer: Answer, question: Question, reply: Reply) -> None:
        await answer.start()
        if question.ask.stream:
            await self._stream(answer, question, reply)
            return
        text = "".join([text async for text in answer.texts()])
        body = self._shape(question).whole(text, answer.finish_reason, answer.usage)
        await reply.respond(JSONResponse(body, headers=reply.labels))

    async def _judge(self, answer: Answer, question: Question, failure: SlipwayError) -> Ending:
        """Return how a failed request ended: who caused it is found out by asking, where the request might have.

        A target that fails a harmless prompt as well fails by itself, also where it says that the request was bad; so
        does one that fails what the version behind answers (see `Proofs.judge`). One that was silent while others were
        answered had more to do than it could.
        """
        kind = as_error_kind(failure.code)
        touch = question.touch
        silent_s = failure.details.get("silent_s")
        target = question.choice.served.target
        if silent_s is not None and self._parts.proofs.is_busy(target, answer.endpoint, silent_s):
            return Ending(error=kind, caused_by="infrastructure")
        if kind not in PROVABLE or (touch is not None and touch.fails):
            return Ending(error=kind, caused_by=ATTRIBUTION[kind])
        failed = Failed(
            question.choice.served,
            answer.endpoint,
            question.prompt,
            question.sampling,
            tokens=answer.usage.output_tokens,
            refused=kind == "bad_request",
        )
        party = await self._parts.proofs.judge(failed, self._behind(question))
        if party == "infrastructure":
            self._parts.metrics.unproved.labels(str(target)).inc()
        if party == "target":
            return Ending(error="engine_failed", caused_by="target")
        return Ending(caused_by="caller") if failed.refused else Ending(error=kind, caused_by=party)

    def _behind(self, question: Question) -> ServedTarget | None:
        target = question.choice.served.target
        route = self._parts.tables[question.environment].get(target.model)
        return routing.choose_behind(route, target) if route is not None else None

    async def _stream(self, answer: Answer, question: Question, reply: Reply) -> None:
        shape = self._shape(question)
        for chunk in shape.opening():
            await reply.write(answers.event(chunk))
        async for text in answer.texts():
            await reply.write(answers.event(shape.piece(text)))
        for chunk in shape.closing(answer.finish_reason, answer.usage):
            await reply.write(answers.event(chunk))
        await reply.write(answers.DONE)
        await reply.end()

    def _shape(self, question: Question) -> answers.Shape:
        prefix = "chatcmpl-" if self._kind == "chat" else "cmpl-"
        return answers.Shape(
            kind=self._kind,
            id=prefix + question.request_id,
            created=int(question.arrived_at.timestamp()),
            model=question.ask.model,
            fingerprint=routing.fingerprint(question.choice.served),
            include_usage=question.ask.include_usage,
        )

    def _report(self, answer: Answer, ending: Ending) -> None:
        record = answer.report(ending)
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


async def _fail(ending: Ending, failure: SlipwayError, reply: Reply) -> None:
    """Answer the caller that a target failed the request, or refused it."""
    problem = errors.upstream_failed(ending.error or "bad_request", failure.reason)
    if reply.started:  # the status is gone; clients read an error event as a failed request
        await reply.write(answers.event(problem.body()))
        await reply.end()
    else:
        await reply.respond(problem_response(problem, reply.labels))


def labels(question: Question) -> Mapping[str, str]:
    """Return the headers that say who answered, and whether a drill had a hand in it."""
    target = question.choice.served.target
    return {
        "x-request-id": question.request_id,
        "x-slipway-version": str(target),
        "x-slipway-release": f"{target.model}@v{target.version}",
        **(question.touch.headers if question.touch else {}),
    }
