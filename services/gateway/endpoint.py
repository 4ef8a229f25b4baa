"""The endpoints of the OpenAI API: accept the request, choose the target, forward its answer, record telemetry."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.vocabulary import Environment
from services.gateway.answer import Answer
from services.gateway.attribution import attribute_failure
from services.gateway.backlog import SlowReader
from services.gateway.dependencies import Dependencies
from services.gateway.domain import answers, drills, environments, errors, json_body, requests
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.failures import AnswerFailed
from services.gateway.domain.requests import ParsedRequest
from services.gateway.http import Reply, abort_connection, cancel_on_disconnect, limit_writes, problem_response
from services.gateway.measurement import AcceptedRequest, Outcome

P = ParamSpec("P")
T = TypeVar("T")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LARGE_BODY_BYTES = 2**16


class Endpoint:
    """The paths of the API that targets answer, as one ASGI application."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
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
                accepted = await self._accept(scope["path"], body, request_id, environment)
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

    async def _accept(self, path: str, raw: bytes, request_id: str, environment: Environment) -> AcceptedRequest:
        dependencies = self._dependencies
        clock = dependencies.clock
        parsed = requests.read_request(path, raw, await self._work(len(raw), json_body.parse_body, raw))
        choice = dependencies.tables[environment].choose(parsed.model, key=parsed.user or request_id)
        served = choice.served
        await self._work(len(raw), requests.check_request, parsed, served.context_tokens, dependencies.limits)
        arrived_at, arrived_s = clock.now(), clock.monotonic()
        drill = dependencies.drills.get(environment, served.target.model)
        return AcceptedRequest(
            request_id=request_id,
            parsed=parsed,
            choice=choice,
            arrived_at=arrived_at,
            arrived_s=arrived_s,
            deadline_s=dependencies.answer_s,
            environment=environment,
            effect=drills.decide_effect(drill, served.target, request_id, arrived_at, arrived_s),
        )

    async def _work(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work on a body; on a large one in a thread, one at a time, so that answers in progress are not delayed."""
        if size <= _LARGE_BODY_BYTES:
            return work(*args, **kwargs)
        async with self._parsing:
            return await asyncio.to_thread(work, *args, **kwargs)

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
            except AnswerFailed as failure:
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
            self._record(answer, accepted.parsed, outcome)

    async def _deliver(self, answer: Answer, accepted: AcceptedRequest, reply: Reply) -> None:
        await answer.start()
        if accepted.parsed.stream:
            async for piece in answer.pieces():
                await reply.write(piece)
            await reply.end()
            return
        body = b"".join([piece async for piece in answer.pieces()])
        await reply.respond(Response(body, headers={**reply.headers, "content-type": answer.content_type}))

    def _record(self, answer: Answer, parsed: ParsedRequest, outcome: Outcome) -> None:
        record = answer.to_record(outcome)
        self._dependencies.metrics.observe(record)
        if answer.retried:
            self._dependencies.metrics.retries.labels(record.environment).inc()
        if not parsed.generates:
            return
        if outcome == Outcome():
            self._dependencies.features.submit(record, parsed.text, answer.measurement.text)
        else:
            self._dependencies.record(record)


async def _send_failure(outcome: Outcome, failure: AnswerFailed, reply: Reply) -> None:
    """Send the caller that a target failed or rejected the request: in the engine's own words if the caller did it."""
    response = failure.response
    if outcome.error is None and failure.kind == "bad_request" and response is not None:
        headers = {**reply.headers, "content-type": response.content_type}
        await reply.respond(Response(response.body, response.status, headers))
        return
    kind = outcome.error or ("bad_request" if failure.kind == "bad_request" else "template_refused")
    problem = errors.upstream_failed(kind, failure.reason)
    if reply.started:  # the status was sent; clients treat an error event as a failed request
        await reply.write(answers.event(problem.body()))
        await reply.end()
    else:
        await reply.respond(problem_response(problem, reply.headers))
