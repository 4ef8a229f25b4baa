"""The OpenAI API: accepts a request, chooses its target, forwards the answer, records telemetry."""

import asyncio
import json
from dataclasses import replace

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from contracts.routes import ServedTarget
from contracts.vocabulary import Environment
from decisions.evidence.attribution import ATTRIBUTION, COMPARED, PROVABLE, ErrorKind
from decisions.openai.limits import most_tokens
from services.gateway.api.answer import Answer
from services.gateway.api.measurement import AcceptedRequest, Arrival, Outcome
from services.gateway.api.mirrors import Mirrors
from services.gateway.callers.budgets import RescueBudgets
from services.gateway.dependencies import Dependencies
from services.gateway.domain import drills, errors, requests, routing
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.records import REJECTED, AnswerFailed, describe_failure
from services.gateway.domain.requests import digest_of
from services.gateway.domain.routing import Choice
from services.gateway.server.http import (
    BodyReader,
    Reply,
    SlowReader,
    cancel_on_disconnect,
    limited_writes,
    problem_response,
)
from services.gateway.server.in_flight import InFlight, LargeBodies
from services.gateway.telemetry.request_traces import RequestTrace

RESCUED = "x-slipway-rescued"
"""Header with the target that failed the request; `x-slipway-version` names the target that answered."""
_DONE = b"data: [DONE]\n\n"
_BYTES_PER_TOKEN = 4
"""Estimates a prompt's tokens until the engine reports them."""


class Endpoint:
    """ASGI application for the API paths that targets answer."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._in_flight = InFlight(dependencies.settings.max_in_flight, dependencies.metrics)
        self._large = LargeBodies(dependencies.clock, dependencies.metrics)
        self._mirrors = Mirrors(dependencies)
        settings = dependencies.settings
        self._bodies = BodyReader(settings.max_body_bytes, settings.body_s, settings.max_bodies_bytes)
        self._rescues = RescueBudgets(
            dependencies.clock, settings.rescues_per_minute, settings.rescues_per_caller, settings.workers
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; abort the answer if the caller does not read it."""
        try:
            with limited_writes(send, self._dependencies.settings.write_s) as limited:
                await self._serve(scope, receive, limited)
        except SlowReader:
            self._dependencies.metrics.slow_readers.inc()  # the connection stays until the caller reads or leaves

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        dependencies = self._dependencies
        request = Request(scope, receive)
        request_id: str = scope["slipway.request_id"]
        # Not the request id: callers could compute from it which requests are drawn.
        draw_id = dependencies.new_id()
        environment: Environment | None = None
        try:
            environment = requests.read_environment(request.headers.getlist(requests.HEADER))
            caller = dependencies.callers.authenticate(request.headers.getlist("authorization"), environment)
            with dependencies.callers.admit(caller) as spending:
                body = await self._bodies.read(request, caller.holder)
                with self._in_flight.count(environment, caller.holder, len(body)):
                    traceparent = request.headers.get("traceparent", "")
                    times = dependencies.clock.now(), dependencies.clock.monotonic()
                    arrival = Arrival(request_id, draw_id, environment, caller, spending, traceparent, *times)
                    async with self._large.turn(caller.holder, len(body)):
                        accepted = await self._accept(scope["path"], body, arrival)
                    reply = Reply(scope, receive, send, accepted.response_headers)
                    await cancel_on_disconnect(receive, self._answer(accepted, reply))
        except ClientDisconnect:
            return
        except RequestRejected as rejection:
            dependencies.metrics.count_rejected(rejection.problem.status, environment)
            await problem_response(rejection.problem)(scope, receive, send)

    async def _accept(self, path: str, raw: bytes, arrival: Arrival) -> AcceptedRequest:
        dependencies, environment = self._dependencies, arrival.environment
        parsed = requests.read_request(path, raw, await self._large.process(len(raw), requests.parse_body, raw))
        table = dependencies.tables[environment]
        caller = arrival.caller
        choice = table.choose(parsed.model, key=arrival.draw_id, opens=caller.opens, names=caller.names)
        served = choice.served
        if parsed.has_conversation and served.chat_template is None:
            raise RequestRejected(errors.no_chat_template(parsed.model))
        await self._large.process(len(raw), requests.check_request, parsed, served.context_tokens)
        is_suspect = False
        if not dependencies.bans.is_empty:
            digest = await self._large.process(len(raw), digest_of, parsed)
            await dependencies.bans.settle()
            is_suspect = dependencies.bans.check(environment, served, digest)
        prompt, answers = most_tokens(parsed.kind, parsed.body, len(raw), served.context_tokens)
        expected = min(prompt, len(raw) // _BYTES_PER_TOKEN)
        arrival.spending.hold(prompt, answers, expected)
        drill = dependencies.drills.get(environment, served.target.model)
        route = table.get(served.target.model)
        return AcceptedRequest(
            arrival=arrival,
            parsed=parsed,
            choice=choice,
            waited_s=dependencies.clock.monotonic() - arrival.at_s,
            deadline_s=dependencies.settings.answer_s,
            trace=RequestTrace(dependencies.tracer, parsed.kind, served.target, arrival.at, arrival.traceparent),
            effect=drills.decide_effect(drill, served.target, arrival.draw_id, arrival.at, arrival.at_s),
            pair=None
            if is_suspect
            else self._mirrors.draw(route, choice, parsed, arrival, self._in_flight[environment]),
            is_suspect=is_suspect,
            prompt_tokens=expected,
            answer_tokens=answers,
        )

    async def _answer(self, accepted: AcceptedRequest, reply: Reply) -> None:
        answer = Answer(accepted, self._dependencies)
        outcome = Outcome()
        rescue: Answer | None = None
        left = False
        try:
            try:
                await answer.start()
                await self._deliver(answer, accepted, reply)
            except AnswerFailed as failure:
                outcome = attribute_failure(self._dependencies, answer, accepted, failure)  # if cancelled now
                rescue = await self._start_rescue(answer, accepted, failure)
                if rescue is None:
                    outcome = attribute_failure(self._dependencies, answer, accepted, failure)
                    await _send_failure(outcome, failure, accepted, reply)
                else:  # the fallback answers
                    outcome = Outcome(error=_as_targets(failure.kind), caused_by="target")
                    await self._deliver_rescue(rescue, reply)
        except (asyncio.CancelledError, OSError, SlowReader):
            left = not answer.is_sent
            if outcome == Outcome() and not answer.is_sent:  # clients disconnect at `[DONE]`
                outcome = Outcome(cancelled=True, caused_by="caller")
            raise
        except Exception:
            outcome = Outcome(error="internal_error", caused_by="gateway")
            raise
        finally:
            try:
                await answer.close()
                if rescue is not None:
                    await rescue.close()
            finally:  # also if the closing is cancelled
                accepted.arrival.spending.settle(_spent(rescue or answer, accepted, left=left))
                self._record(answer, accepted, outcome, rescue)

    async def _start_rescue(self, answer: Answer, accepted: AcceptedRequest, failure: AnswerFailed) -> Answer | None:
        """Return the fallback's started answer to a failed request; None if there is none.

        The target's failure is recorded and counts all the same.
        """
        dependencies = self._dependencies
        route = dependencies.tables[accepted.arrival.environment].get(accepted.choice.served.target.model)
        fallback = routing.choose_fallback(route, accepted.choice.served.target) if route is not None else None
        if fallback is None or not may_rescue(accepted, answer, failure, fallback):
            return None
        if not self._rescues.admit(accepted.arrival.caller.account):
            dependencies.metrics.rescued.labels("over_budget").inc()
            return None
        used_s = dependencies.clock.monotonic() - accepted.arrival.at_s
        left_s = max(0.0, accepted.deadline_s - used_s)
        second = replace(accepted, choice=Choice(fallback), pair=None, effect=None, deadline_s=left_s, is_callers=False)
        rescue = Answer(second, dependencies)
        try:
            await rescue.start()
        except AnswerFailed as again:
            await rescue.close()
            answer.other_failed = again.kind
            dependencies.metrics.rescued.labels("failed").inc()
            return None
        except BaseException:
            await rescue.close()
            raise
        dependencies.metrics.rescued.labels("answered").inc()
        return rescue

    async def _deliver_rescue(self, rescue: Answer, reply: Reply) -> None:
        """Send the fallback's answer, with the failed target in the header `x-slipway-rescued`."""
        failed = reply.headers["x-slipway-version"]
        reply.headers = {**reply.headers, **rescue.accepted.response_headers, RESCUED: failed}
        try:
            await self._deliver(rescue, rescue.accepted, reply)
        except AnswerFailed as failure:
            outcome = Outcome(error=failure.kind)
            await _send_failure(outcome, failure, rescue.accepted, reply)

    async def _deliver(self, answer: Answer, accepted: AcceptedRequest, reply: Reply) -> None:
        accepted.arrival.spending.correct(answer.measurement.input_tokens)
        if accepted.parsed.stream:
            async for piece in answer.pieces():
                answer.is_sent = piece.endswith(_DONE)
                await reply.write(piece)
            answer.is_sent = True
            await reply.end()
            return
        body = b"".join([piece async for piece in answer.pieces()])
        await reply.send_whole(200, body, {**reply.headers, "content-type": answer.content_type})

    def _record(
        self, answer: Answer, accepted: AcceptedRequest, outcome: Outcome, rescue: Answer | None = None
    ) -> None:
        record = answer.to_record(outcome)
        if rescue is not None:
            record = record.model_copy(update={"rescued_by": rescue.accepted.choice.served.target})
        self._dependencies.metrics.observe(record)
        accepted.trace.end(record)
        if answer.retried is not None:
            self._dependencies.metrics.retries.labels(record.environment, answer.retried).inc()
        if not accepted.parsed.computes:
            return
        self._mirrors.note(record)
        if answer.engine_died or answer.other_failed is not None or (rescue is not None and rescue.engine_died):
            self._mirrors.release(accepted)  # the request may kill another engine, too
        else:
            self._mirrors.offer(accepted, record)
        if outcome == Outcome() and accepted.parsed.generates:
            self._dependencies.features.submit(record, answer.measurement.excerpts, draw_id=accepted.arrival.draw_id)
        else:
            self._dependencies.telemetry.record(record)


def may_rescue(accepted: AcceptedRequest, answer: Answer, failure: AnswerFailed, fallback: ServedTarget) -> bool:
    """Return whether the fallback may answer a failed request.

    Only if the engine itself failed or refused the request before the first token. Not after a failure by a drill,
    not after an engine's death, and not if the prompt only fits the fallback's larger context.
    """
    by_drill = accepted.effect is not None and accepted.effect.fails
    is_longer = failure.kind == "bad_request" and fallback.context_tokens > accepted.choice.served.context_tokens
    own = failure.kind in PROVABLE and not is_longer and not (failure.is_callers or by_drill or answer.engine_died)
    own = own and not accepted.is_suspect
    unseen = answer.measurement.output_tokens == 0
    return own and unseen and routing.may_mirror(accepted.parsed, accepted.choice.served, fallback)


def attribute_failure(
    dependencies: Dependencies, answer: Answer, accepted: AcceptedRequest, failure: AnswerFailed
) -> Outcome:
    """Return the outcome of a failed request that no other version answered.

    If the fallback failed it too (`Answer.other_failed`), the caller caused the failure; if the fallback died, the
    infrastructure. A silent or unreachable fallback shows nothing: the target failed. A target that was silent
    while sending pieces of other answers was overloaded: the infrastructure.
    """
    kind, served = failure.kind, accepted.choice.served
    if failure.silent_s is not None and dependencies.checks.is_busy(served.target, answer.endpoint, failure.silent_s):
        return Outcome(error=kind, caused_by="infrastructure")
    if kind == "endpoint_unreachable" and dependencies.balancer.is_loaded_nowhere(served):
        kind = "not_loaded"
    if answer.engine_died and kind in COMPARED:
        kind = "engine_dead"  # a death in any attempt counts
    is_callers = answer.other_failed in PROVABLE
    if kind in REJECTED or (kind == "template_failed" and is_callers):
        return Outcome(caused_by="caller")
    if is_callers or answer.other_failed == "engine_dead":
        return Outcome(error=kind, caused_by="caller" if is_callers else "infrastructure")
    return Outcome(error=kind, caused_by=ATTRIBUTION[kind])


def _as_targets(kind: ErrorKind) -> ErrorKind:
    """Return the failure to record if the fallback answered: a refusal counts as the target's failure."""
    instead: dict[ErrorKind, ErrorKind] = {"bad_request": "engine_failed", "template_refused": "template_failed"}
    return instead.get(kind, kind)


def _spent(answer: Answer, accepted: AcceptedRequest, *, left: bool) -> int:
    """Return the tokens that a request used.

    If the caller left before the engine reported the prompt's tokens, their estimate counts.
    """
    measured = answer.measurement
    unreported = left and measured.input_tokens == 0
    return measured.tokens + (accepted.arrival.spending.prompt if unreported else 0)


async def _send_failure(outcome: Outcome, failure: AnswerFailed, accepted: AcceptedRequest, reply: Reply) -> None:
    """Send the caller a failure or rejection; the engine's own response if the caller caused it."""
    response = failure.response
    if outcome.error is None and failure.kind == "bad_request" and response is not None:
        headers = {**reply.headers, "content-type": response.content_type}
        await reply.send_whole(response.status, response.body, headers)
        return
    kind = outcome.error or ("bad_request" if failure.kind == "bad_request" else "template_refused")
    if outcome.error is not None:
        target = str(accepted.choice.served.target)
        log = structlog.get_logger()
        log.warning(
            "request failed", target=target, request_id=accepted.arrival.request_id, kind=kind, reason=failure.reason
        )
    problem = errors.upstream_failed(kind, describe_failure(failure))
    if reply.started:  # clients treat an error event as a failed request
        # JSON has no line breaks, so one `data:` line suffices
        await reply.write(b"data: " + json.dumps(problem.body(), separators=(",", ":")).encode() + b"\n\n")
        await reply.end()
    else:
        await reply.respond(problem_response(problem, reply.headers))
