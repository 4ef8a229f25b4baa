"""vLLM's own OpenAI application over an engine that is already there, called in this process.

A request comes as method, path and JSON body, and the application's own bytes go back: status, headers and pieces of
the body. Beside each piece goes a record of what the engine did for it, so that the bytes need not be decoded again:

    output_tokens, prompt_tokens: counts, of all answers of the request, so far.
    texts: `[[answer, text], …]`, new since the last record.
    finish_reasons: `{answer: reason}` of those that ended since the last record.
    queue_ms, first_token_ms: times that the engine took, from its first answer.
    logprob_mean: mean log-probability of the generated tokens, in nats, where the request asked for log-probabilities.
    nan_logits: whether the engine met a NaN.
    error: `{"class", "source"}` of a failure. The source is `validation` for the body of the request, `deadline`, or a
        part of the target: `template`, `tokenizer`, `parser`, `engine` or `application`.
"""

import asyncio
import contextlib
import contextvars
import json
import traceback
from argparse import Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import openai_checks
from engine_tensors import HttpAsk, HttpPiece

from decisions import openai_requests

DISCONNECT_S = 1.0

_MODULES = {
    "template": ("jinja2",),
    "parser": ("vllm.tool_parsers", "vllm.reasoning", "vllm.parser"),
    "tokenizer": ("transformers", "tokenizers", "vllm.tokenizers"),
    "validation": ("pydantic", "vllm.v1.engine.input_processor"),
    "engine": ("vllm.v1",),
}
"""Packages that an error's traceback leads through, by the part that they are: the first part that fits counts."""
_ENGINE_ERRORS = frozenset({"EngineDeadError", "EngineGenerateError", "GenerationError", "RetryableRequestError"})
_VALIDATION_ERRORS = frozenset({"RequestValidationError", "VLLMClientError", "HTTPException"})
_FIRST_ERROR_STATUS = 400
_FIRST_SERVER_ERROR_STATUS = 500
_ERROR_EVENT = b'data: {"error":'


@dataclass
class Recorder:
    """What the engine did for one request since the last record."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    answers: int = 0
    texts: list[tuple[str, str]] = field(default_factory=list)
    finish_reasons: dict[str, str] = field(default_factory=dict)
    queue_ms: float | None = None
    first_token_ms: float | None = None
    logprob_sum: float = 0.0
    logprob_tokens: int = 0
    nan_logits: bool = False
    error: dict[str, str] | None = None

    def note_output(self, answer: int, output: Any) -> None:
        """Note an output of the engine; `answer` is the number of its prompt in the request."""
        stats = output.metrics
        if stats is not None and self.first_token_ms is None and stats.first_token_ts:
            self.queue_ms = max(0.0, (stats.scheduled_ts - stats.queued_ts) * 1000.0)
            self.first_token_ms = max(0.0, (stats.first_token_ts - stats.queued_ts) * 1000.0)
        if stats is not None:
            self.nan_logits = self.nan_logits or bool(stats.is_corrupted)
        for part in output.outputs:
            name = f"{answer}.{part.index}"
            self.output_tokens += len(part.token_ids)
            if part.text:
                self.texts.append((name, part.text))
            if part.finish_reason is not None:
                self.finish_reasons[name] = str(part.finish_reason)
            for token, position in zip(part.token_ids, part.logprobs or (), strict=False):
                if token in position:
                    self.logprob_sum += position[token].logprob
                    self.logprob_tokens += 1

    def note_error(self, error: BaseException) -> None:
        """Note the first failure of the request."""
        if self.error is None:
            self.error = {"class": type(error).__name__, "source": find_source(error, started=bool(self.answers))}

    def note_answer(self, status: int | None, body: bytes) -> None:
        """Note a failure that only the answer tells: an error in a stream that began well, or an error status."""
        if self.error is not None:
            return
        if body.startswith(_ERROR_EVENT):
            self.error = {"class": "ErrorEvent", "source": "parser"}
        elif status is not None and status >= _FIRST_ERROR_STATUS:
            source = "validation" if status < _FIRST_SERVER_ERROR_STATUS else "application"
            self.error = {"class": f"Status{status}", "source": source}

    def take(self) -> dict[str, Any]:
        """Return the record since the last call."""
        record: dict[str, Any] = {"prompt_tokens": self.prompt_tokens, "output_tokens": self.output_tokens}
        if self.texts:
            record["texts"], self.texts = self.texts, []
        if self.finish_reasons:
            record["finish_reasons"], self.finish_reasons = self.finish_reasons, {}
        for name in ("queue_ms", "first_token_ms"):
            if (value := getattr(self, name)) is not None:
                record[name] = round(value, 3)
        if self.logprob_tokens:
            record["logprob_mean"] = self.logprob_sum / self.logprob_tokens
        if self.nan_logits:
            record["nan_logits"] = True
        if self.error is not None:
            record["error"] = self.error
        return record


_current: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar("recorder", default=None)
"""The recorder of the request whose code runs; the application's own tasks inherit it."""


def find_source(error: BaseException, *, started: bool) -> str:
    """Return which part an error came from: by its causes' classes, and the modules that their tracebacks lead through.

    Args:
        error: the exception, with its traceback.
        started: whether the engine had begun to answer.
    """
    chain = list(_causes(error))
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if names & _ENGINE_ERRORS:
        return "engine"
    if any(type(cause).__module__.partition(".")[0] == "jinja2" for cause in chain):
        return "template"
    modules = [
        frame.f_globals.get("__name__", "") for cause in chain for frame, _ in traceback.walk_tb(cause.__traceback__)
    ]
    for source, packages in _MODULES.items():
        if any(module == package or module.startswith(f"{package}.") for module in modules for package in packages):
            # vLLM reports a caller's mistake as a class of its own, also where a tokenizer or the engine meets it.
            mistaken = source != "template" and names & _VALIDATION_ERRORS
            return "validation" if mistaken else source
    if names & _VALIDATION_ERRORS or (not started and names & {"ValueError", "TypeError"}):
        return "validation"
    return "application"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, or while handling."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def record_outputs(engine: type[Any]) -> type[Any]:
    """Return an engine class that notes its outputs for the request whose code runs."""

    class RecordedEngine(engine):  # type: ignore[misc]  # the class comes from vLLM, which is not in this environment
        async def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            recorder = _current.get()
            outputs = super().generate(*args, **kwargs)
            if recorder is None:
                async for output in outputs:
                    yield output
                return
            answer, recorder.answers = recorder.answers, recorder.answers + 1
            counted = False
            try:
                async for output in outputs:
                    if not counted:
                        counted = True
                        recorder.prompt_tokens += len(output.prompt_token_ids or ())
                    recorder.note_output(answer, output)
                    yield output
            except (GeneratorExit, asyncio.CancelledError):
                raise
            except BaseException as error:
                recorder.note_error(error)
                raise

    return RecordedEngine


Send = Callable[[HttpPiece], None]


def server_arguments(model_dir: str, api: Mapping[str, Any]) -> Namespace:
    """Return the arguments of vLLM's server for the settings of the API; nothing of it listens.

    Args:
        model_dir: folder of the model.
        api: `model` and `fingerprint` as answers name them, `tool_parser`, `reasoning_parser`, `template_options`.
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
        message = f"load_failed: vLLM does not take the settings of the API: {api}"
        raise ValueError(message) from error


class Application:
    """vLLM's OpenAI application; make it with `create`."""

    def __init__(self, app: Any, context_tokens: int) -> None:
        """Note the failures that the application answers, before it is called for the first time."""
        self._app = app
        self._context_tokens = context_tokens
        self._paths = {route.path for route in app.routes}
        for kind, handler in list(app.exception_handlers.items()):
            app.exception_handlers[kind] = _noting(handler)
        app.middleware_stack = None  # it is built again, with these handlers, at the first call

    @classmethod
    async def create(cls, llm: Any, args: Namespace) -> "Application":
        """Return the application over an engine (`AsyncLLM`); `args` are those of vLLM's server."""
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        args.structured_outputs_config = llm.vllm_config.structured_outputs_config
        tasks = await llm.get_supported_tasks()
        app = build_app(args, supported_tasks=tasks, model_config=llm.model_config)
        await init_app_state(llm, app.state, args, supported_tasks=tasks)
        app.state.server = SimpleNamespace(should_exit=False)  # vLLM's handler of a dead engine ends its server
        return cls(app, llm.model_config.max_model_len)

    async def answer(self, ask: HttpAsk, send: Send, limits: openai_requests.CostLimits) -> None:
        """Answer a request; the last piece says that it is the last.

        A cancellation aborts it in the engine. So does the deadline: status 504 if nothing was sent before, else an
        answer that ends early; the record says why.
        """
        if refusal := openai_checks.check(ask, self._paths, self._context_tokens, limits):
            send(openai_checks.refuse(refusal))
            return
        recorder = Recorder()
        call = _Call(ask, recorder, send)
        token = _current.set(recorder)
        try:
            task = asyncio.create_task(self._app(call.scope, call.receive, call.send))
        finally:
            _current.reset(token)
        try:
            async with asyncio.timeout(ask.deadline_s):
                await asyncio.shield(task)
        except asyncio.CancelledError:
            await _end(task, call)
            raise
        except TimeoutError:
            await _end(task, call)
            call.fail_late(ask.deadline_s)
            return
        except Exception as error:
            recorder.note_error(error)
            if not call.started:
                raise
        call.finish()


async def _end(task: asyncio.Task[None], call: "_Call") -> None:
    """Signal the application that its caller left, so that it aborts its requests; cancel it if it does not end."""
    call.left.set()
    with contextlib.suppress(BaseException):
        async with asyncio.timeout(DISCONNECT_S):
            await asyncio.shield(task)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Call:
    """One call of the application: the ASGI scope, what it receives, and what becomes of what it sends."""

    def __init__(self, ask: HttpAsk, recorder: Recorder, send: Send) -> None:
        self._body: bytes | None = ask.body
        self._recorder = recorder
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
                (b"x-request-id", ask.request_id.encode()),
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
        self._recorder.note_answer(self._status, body)
        self._ended = self._ended or last
        self.started = True
        self._send(self._piece(body, last=last))

    def fail_late(self, deadline_s: float) -> None:
        """End an answer whose deadline has passed."""
        self._recorder.error = {"class": "DeadlineExceeded", "source": "deadline"}
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
        return HttpPiece(body, self._recorder.take(), status, headers, last)


def _noting(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def noting(request: Any, error: Exception) -> Any:
        recorder = _current.get()
        if recorder is not None:
            recorder.note_error(error)
        return await handler(request, error)

    return noting
