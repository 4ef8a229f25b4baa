"""vLLM's own OpenAI application over an existing engine, called in this process as ASGI.

Its status, headers and body are passed on unchanged, each piece with a record of the engine's work (`openai_record`).
"""

import asyncio
import contextlib
import json
import uuid
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import body_validation
import openai_checks
import schema_check
from engine_tensors import HttpAsk, HttpPiece
from openai_record import Recorder, current
from schema_check import SchemaCheck

from decisions.openai.limits import CostLimits, Refusal

DISCONNECT_S = 1.0
CHECK_S = 30.0
"""Time in which all schemas of a request must be compiled."""

Send = Callable[[HttpPiece], None]


def server_arguments(model_dir: str, api: Mapping[str, Any]) -> Namespace:
    """Return vLLM's server arguments for the settings of the API; the server itself is not started.

    Args:
        model_dir: folder of the model.
        api: `model` and `fingerprint` of answers, `tool_parser`, `reasoning_parser`, `template_options`.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    given = ["--model", model_dir, "--disable-fastapi-docs", "--served-model-name", api.get("model") or "model"]
    if fingerprint := api.get("fingerprint"):
        given += ["--fingerprint-mode", "custom", "--fingerprint-value", fingerprint]
    else:
        given += ["--fingerprint-mode", "none"]
    if parser := api.get("tool_parser"):
        given += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    if parser := api.get("reasoning_parser"):
        given += ["--reasoning-parser", parser]
    if options := api.get("template_options"):
        given += ["--default-chat-template-kwargs", json.dumps(options)]
    try:
        return make_arg_parser(FlexibleArgumentParser()).parse_args(given)
    except SystemExit as error:
        raise ValueError(f"load_failed: vLLM does not take the settings of the API: {api}") from error


class Application:
    """vLLM's OpenAI application; make it with `create`."""

    def __init__(self, app: Any, context_tokens: int, schemas: SchemaCheck | None) -> None:
        """Wrap the application's exception handlers to record failures; must run before its first request."""
        self._app = app
        self._context_tokens = context_tokens
        self._schemas = schemas
        self._judging = openai_checks.JudgingThread()
        self._paths = {route.path for route in app.routes}
        self._validation = body_validation.BodyValidation(app.routes, self._judging)
        for kind, handler in list(app.exception_handlers.items()):
            app.exception_handlers[kind] = _noting(handler)
        app.middleware_stack = None  # it is built again, with these handlers, at the first call

    @classmethod
    async def create(cls, llm: Any, args: Namespace) -> "Application":
        """Return the application over an engine (`AsyncLLM`) with vLLM's server arguments."""
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        args.structured_outputs_config = llm.vllm_config.structured_outputs_config
        tasks = await llm.get_supported_tasks()
        app = build_app(args, supported_tasks=tasks, model_config=llm.model_config)
        await init_app_state(llm, app.state, args, supported_tasks=tasks)
        app.state.server = SimpleNamespace(should_exit=False)  # vLLM's handler of a dead engine ends its server
        _name_by_request(app.state.openai_serving_models)
        return cls(app, llm.model_config.max_model_len, llm.schemas)

    async def answer(self, ask: HttpAsk, send: Send, limits: CostLimits) -> None:
        """Answer a request; the last piece is marked.

        Cancellation and deadline abort it in the engine. After the deadline come status 504, or an early end, and an
        error in the record.
        """
        call, until_s = _Call(ask, send), asyncio.get_running_loop().time() + ask.deadline_s
        try:
            async with asyncio.timeout_at(until_s):
                judged = await self._judge(ask, limits)
        except TimeoutError:
            call.fail_late(ask.deadline_s)
            return
        if isinstance(judged, Refusal):
            send(openai_checks.refuse(judged))
            return
        await self._call_app(call, judged, ask.deadline_s, until_s)

    async def _judge(self, ask: HttpAsk, limits: CostLimits) -> body_validation.Outcome | Refusal | None:
        """Return the refusal of a request, or the validation outcome of a large body, or None."""
        rules = openai_checks.Rules(self._paths, self._context_tokens, limits)
        body = await openai_checks.judge_apart(ask, rules, self._judging)
        if isinstance(body, Refusal):
            return body
        if refusal := await self._check_schemas(body):
            return refusal
        return await self._validation.validate(ask, body)

    async def _call_app(
        self, call: "_Call", outcome: body_validation.Outcome | None, deadline_s: float, until_s: float
    ) -> None:
        """Call the application, and end its answer; `until_s` is the deadline by the loop's clock."""
        token, used = current.set(call.recorder), body_validation.use(outcome)
        try:
            task = asyncio.create_task(self._app(call.scope, call.receive, call.send))
        finally:
            body_validation.forget(used)
            current.reset(token)
        timeout = asyncio.timeout_at(until_s)
        try:
            async with timeout:
                await asyncio.shield(task)
        except asyncio.CancelledError:
            await _end(task, call)
            raise
        except Exception as error:
            if timeout.expired():
                await _end(task, call)
                call.fail_late(deadline_s)
                return
            call.recorder.note_error(error)
            if not call.started:
                raise
        call.finish()

    async def _check_schemas(self, body: Mapping[str, Any]) -> Refusal | None:
        """Return the refusal of costly schemas; schemas of tools are checked again by the engine."""
        if self._schemas is None:
            return None
        try:
            async with asyncio.timeout(CHECK_S):
                return await schema_check.find_refusal(self._schemas, body)
        except TimeoutError:
            return schema_check.busy("the schemas of the request")


async def _end(task: asyncio.Task[None], call: "_Call") -> None:
    """Signal a disconnect to the application, so that it aborts its requests; cancel it if it does not end."""
    call.left.set()
    with contextlib.suppress(BaseException):
        async with asyncio.timeout(DISCONNECT_S):
            await asyncio.shield(task)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Call:
    """One ASGI call of the application: scope, receive and send."""

    def __init__(self, ask: HttpAsk, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self.recorder = Recorder(loop.time, lambda: loop.call_soon(self._send_progress), ask.model, ask.cache_salt)
        self._body: bytes | None = ask.body
        self._send = send
        self._status: int | None = None
        self._headers: tuple[tuple[str, str], ...] = ()
        self.started = False
        self._ended = False
        self.left = asyncio.Event()
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": ask.method,
            "scheme": "http",
            "path": ask.path,
            "raw_path": ask.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", b"engine"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(ask.body)).encode()),
                (b"x-request-id", (ask.request_id or uuid.uuid4().hex).encode()),
            ],
            "client": None,
            "server": ("engine", 80),
            "state": {},
        }

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        if self.left.is_set():
            return  # what the application makes of a caller that left is no part of the answer
        if message["type"] == "http.response.start":
            self._status = int(message["status"])
            self._headers = tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]
            )
            return
        body, last = bytes(message.get("body", b"")), not message.get("more_body", False)
        self.recorder.note_answer(self._status, body)
        self._ended = self._ended or last
        self.started = True
        self._send(self._piece(body, last=last))

    def _send_progress(self) -> None:
        if not self._ended and not self.left.is_set():
            self._send(HttpPiece(b"", self.recorder.take()))

    def fail_late(self, deadline_s: float) -> None:
        """End an answer after its deadline."""
        self.recorder.error = {"class": "DeadlineExceeded", "source": "deadline"}
        if self.started:
            self._send(self._piece(b"", last=True))
            return
        self._status, self._headers = 504, openai_checks.JSON_HEADERS
        self._send(self._piece(openai_checks.late_body(deadline_s), last=True))

    def finish(self) -> None:
        if not self._ended:
            self._ended = True
            self._send(self._piece(b"", last=True))

    def _piece(self, body: bytes, *, last: bool) -> HttpPiece:
        status, self._status = self._status, None
        headers, self._headers = self._headers, ()
        return HttpPiece(body, self.recorder.take(), status, headers, last)


def _name_by_request(models: Any) -> None:
    """Let vLLM accept and return the request's name of the model, which the gateway has checked."""
    own_name, is_own = models.model_name, models.is_base_model

    def model_name(lora_request: Any = None) -> str:
        recorder = current.get()
        return recorder.model if recorder is not None and recorder.model else own_name(lora_request)

    def is_base_model(name: str) -> bool:
        recorder = current.get()
        return (recorder is not None and recorder.model is not None) or is_own(name)

    models.model_name, models.is_base_model = model_name, is_base_model


def _noting(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def noting(request: Any, error: Exception) -> Any:
        recorder = current.get()
        if recorder is not None:
            recorder.note_error(error)
        return await handler(request, error)

    return noting
