"""The two endpoints that generate text: accept the request, choose the target, answer, record telemetry."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from contracts.vocabulary import Environment
from services.gateway.answer import AcceptedRequest, Answer, Outcome
from services.gateway.attribution import attribute_failure
from services.gateway.backlog import SlowReader
from services.gateway.dependencies import Dependencies
from services.gateway.domain import answers, drills, environments, errors, json_body, requests, routing
from services.gateway.domain.errors import RequestRejected
from services.gateway.http import Reply, abort_connection, cancel_on_disconnect, limit_writes, problem_response
from services.gateway.rendering import BrokenTemplateError, Renderer
from shared.errors import SlipwayError

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LARGE_BODY_BYTES = 2**16


class Completions:
    """`/v1/chat/completions` or `/v1/completions`, as an ASGI application."""

    def __init__(self, kind: Literal["chat", "completion"], dependencies: Dependencies) -> None:
        self._kind = kind
        self._dependencies = dependencies
        self._renderer = Renderer(dependencies)
        self._in_flight: Counter[Environment] = Counter()
        self._parsing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; drop a caller that does not read its answer."""
        send = limit_writes(send, self._dependencies.write_s)
        try:
            await self._serve(scope, receive, send)
        except SlowReader:
            self._dependencies.metrics.slow_readers.inc()
            await abort_connection(scope)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        dependencies = self._dependencies
        request = Request(scope, receive)
        given_id = request.headers.get("x-request-id", "")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else dependencies.new_id()
        environment: Environment | None = None
        try:
            environment = environments.read_environment(request.headers.getlist(environments.HEADER))
            body = await dependencies.bodies.read(request)
            with self._count_in_flight(environment):
                accepted = await self._accept(body, request_id, environment)
                reply = Reply(scope, receive, send, accepted.response_headers)
                await cancel_on_disconnect(receive, self._answer(accepted, reply))
        except ClientDisconnect:
            return
        except RequestRejected as rejection:
            dependencies.metrics.count_rejected(rejection.problem.status, environment)
            await problem_response(rejection.problem, {"x-request-id": request_id})(scope, receive, send)

    @contextlib.contextmanager
    def _count_in_flight(self, environment: Environment) -> Iterator[None]:
        """Count a request of an environment as in flight; raise RequestRejected (429) above the limit."""
        gauge = self._dependencies.metrics.in_flight.labels(environment)
        if self._in_flight[environment] >= self._dependencies.max_in_flight:
            raise RequestRejected(errors.too_many_requests(self._dependencies.max_in_flight))
        self._in_flight[environment] += 1
        gauge.inc()
        try:
            yield
        finally:
            self._in_flight[environment] -= 1
            gauge.dec()

    async def _accept(self, raw: bytes, request_id: str, environment: Environment) -> AcceptedRequest:
        clock = self._dependencies.clock
        body = await self._parse(raw)
        parsed = requests.read_chat(body) if self._kind == "chat" else requests.read_completion(body)
        choice = self._dependencies.tables[environment].choose(parsed.model, key=parsed.user or request_id)
        sampling = requests.plan_sampling(parsed, choice.served.context_tokens)
        accepted = AcceptedRequest(
            request_id=request_id,
            parsed=parsed,
            choice=choice,
            prompt=parsed.prompt,
            sampling=sampling,
            arrived_at=clock.now(),
            arrived_s=clock.monotonic(),
            environment=environment,
        )
        if parsed.kind == "chat":
            prompt = await self._render(accepted)
            requests.check_length(prompt, choice.served.context_tokens, "messages")
            accepted = replace(accepted, prompt=prompt, arrived_at=clock.now(), arrived_s=clock.monotonic())
        target = choice.served.target
        drill = self._dependencies.drills.get(environment, target.model)
        effect = drills.decide_effect(drill, target, request_id, accepted.arrived_at, accepted.arrived_s)
        return replace(accepted, effect=effect)

    async def _parse(self, raw: bytes) -> dict[str, Any]:
        """Parse a body; a large one in a thread, one at a time, so that answers in progress are not delayed."""
        if len(raw) <= _LARGE_BODY_BYTES:
            return json_body.parse_body(raw)
        async with self._parsing:
            return await asyncio.to_thread(json_body.parse_body, raw)

    async def _render(self, accepted: AcceptedRequest) -> str:
        try:
            return await self._renderer.render(accepted)
        except BrokenTemplateError as error:
            self._record(self._new_answer(accepted), Outcome(error="template_failed", caused_by="target"))
            problem = replace(errors.template_failed(str(error)), headers=accepted.response_headers)
            raise RequestRejected(problem) from error

    def _new_answer(self, accepted: AcceptedRequest) -> Answer:
        dependencies = self._dependencies
        return Answer(
            accepted,
            dependencies.engine,
            dependencies.clock,
            dependencies.pause,
            lag_bytes=dependencies.lag_bytes,
            on_delta=dependencies.cross_checks.note_delta,
        )

    async def _answer(self, accepted: AcceptedRequest, reply: Reply) -> None:
        answer = self._new_answer(accepted)
        outcome = Outcome()
        try:
            try:
                await self._deliver(answer, accepted, reply)
            except SlipwayError as failure:
                outcome = await attribute_failure(self._dependencies, answer, accepted, failure)
                await _send_failure(outcome, failure, reply)
        except (asyncio.CancelledError, OSError, SlowReader):
            # A failure of the target before this one counts; else the caller went away, or does not read.
            outcome = outcome if outcome != Outcome() else Outcome(cancelled=True, caused_by="caller")
            raise
        except Exception:
            outcome = Outcome(error="internal_error", caused_by="gateway")
            raise
        finally:
            await answer.close()
            self._record(answer, outcome)

    async def _deliver(self, answer: Answer, accepted: AcceptedRequest, reply: Reply) -> None:
        await answer.start()
        if accepted.parsed.stream:
            await self._stream(answer, accepted, reply)
            return
        text = "".join([text async for text in answer.texts()])
        body = self._format(accepted).complete(text, answer.finish_reason, answer.usage)
        await reply.respond(JSONResponse(body, headers=reply.headers))

    async def _stream(self, answer: Answer, accepted: AcceptedRequest, reply: Reply) -> None:
        response = self._format(accepted)
        for chunk in response.first_chunks():
            await reply.write(answers.event(chunk))
        async for text in answer.texts():
            await reply.write(answers.event(response.chunk(text)))
        for chunk in response.last_chunks(answer.finish_reason, answer.usage):
            await reply.write(answers.event(chunk))
        await reply.write(answers.DONE)
        await reply.end()

    def _format(self, accepted: AcceptedRequest) -> answers.ResponseFormat:
        prefix = "chatcmpl-" if self._kind == "chat" else "cmpl-"
        return answers.ResponseFormat(
            kind=self._kind,
            id=prefix + accepted.request_id,
            created=int(accepted.arrived_at.timestamp()),
            model=accepted.parsed.model,
            fingerprint=routing.fingerprint(accepted.choice.served),
            include_usage=accepted.parsed.include_usage,
        )

    def _record(self, answer: Answer, outcome: Outcome) -> None:
        record = answer.to_record(outcome)
        self._dependencies.metrics.observe(record)
        if answer.retried:
            self._dependencies.metrics.retries.labels(record.environment).inc()
        self._dependencies.record(record)


async def _send_failure(outcome: Outcome, failure: SlipwayError, reply: Reply) -> None:
    """Send the caller that a target failed or rejected the request."""
    problem = errors.upstream_failed(outcome.error or "bad_request", failure.reason)
    if reply.started:  # the status was sent; clients treat an error event as a failed request
        await reply.write(answers.event(problem.body()))
        await reply.end()
    else:
        await reply.respond(problem_response(problem, reply.headers))
