"""Triton Python-based backend around vLLM's AsyncLLM, on CPUs and GPUs.

Each request is a coroutine on one event loop in its own thread. Text is sent as deltas; a cancelled request is aborted
in the engine; every stream ends with the final flag, also if the engine is dead.

``parameters`` of config.pbtxt:
    model_dir: folder of the Hugging Face model (required).
    device: `cpu` (the default) or `gpu`, for the defaults.
    engine_args: JSON object of vLLM engine arguments, over the defaults of `engine_environment`.
    environment: JSON object of environment variables for vLLM (only ``VLLM_*`` and ``OMP_*``).
    api: JSON object of the settings of the OpenAI API: `model` and `fingerprint` of answers, `tool_parser`,
        `reasoning_parser`, `template_options`, and `limits` (see `openai_limits.CostLimits`).
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import engine_environment  # noqa: E402 - found by the path above
import engine_tensors  # noqa: E402 - found by the path above
import memory_report  # noqa: E402 - found by the path above
import openai_app  # noqa: E402 - found by the path above
import openai_record  # noqa: E402 - found by the path above
import replies  # noqa: E402 - found by the path above
import schema_check  # noqa: E402 - found by the path above
import stub_guard  # noqa: E402 - found by the path above
import text_answers  # noqa: E402 - found by the path above
import triton_python_backend_utils as pb_utils  # noqa: E402 - found by the path above

from decisions.openai import limits as openai_limits  # noqa: E402 - found by the path above

CANCEL_POLL_S = 0.1
STOP_S = 10.0
SHUTDOWN_S = 2.0
EXIT_S = 5


class Engine:
    """AsyncLLM on an event loop in its own thread."""

    def __init__(self, model_dir: str, engine_args: dict[str, Any], api: dict[str, Any]) -> None:
        """Load the model; return when it can answer.

        Raises:
            Exception: the error of vLLM if the model cannot be loaded.
        """
        self.loop = asyncio.new_event_loop()
        self._active: dict[int, tuple[Any, asyncio.Task[None]]] = {}
        self._frames = replies.Frames()
        self._app: openai_app.Application | None = None
        self._count = 0
        self._thread = threading.Thread(target=self.loop.run_forever, name="engine", daemon=True)
        self._thread.start()
        self._llm: Any = None
        self._limits = openai_limits.CostLimits(**api.get("limits", {}))
        server = openai_app.server_arguments(model_dir, api)
        if api.get("reasoning_parser"):
            engine_args = {**engine_args, "reasoning_parser": api["reasoning_parser"]}
        asyncio.run_coroutine_threadsafe(self._load(model_dir, engine_args, server), self.loop).result()

    async def _load(self, model_dir: str, engine_args: dict[str, Any], server: Any) -> None:
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        # One compiler for all schemas: vLLM's "auto" takes, for all requests, the one that the first request needed.
        structures = StructuredOutputsConfig(backend="xgrammar")
        fixed = {
            "trust_remote_code": False,
            "model": model_dir,
            "structured_outputs_config": structures,
            "allowed_media_domains": ["none.invalid"],  # an empty list would allow all
        }
        arguments = AsyncEngineArgs(**{**engine_args, **fixed})
        self._llm = openai_record.record_outputs(AsyncLLM).from_engine_args(arguments)
        self._llm.schemas = _schema_check(self._llm)
        self._app = await openai_app.Application.create(self._llm, server)
        self._watch = self.loop.create_task(self._abort_cancelled())

        if self._llm.schemas is not None:
            await self._llm.schemas.start()

    async def _abort_cancelled(self) -> None:
        while True:
            await asyncio.sleep(CANCEL_POLL_S)
            for number, (reply, task) in list(self._active.items()):
                if reply.is_cancelled():
                    del self._active[number]  # cancelled once: its end may take a while
                    task.cancel()

    def submit(self, request: Any) -> None:
        """Schedule a request; called on Triton's thread, returns immediately."""
        reply = replies.Reply(request)
        try:
            ask = engine_tensors.parse_http(request) or engine_tensors.parse(request)
        except engine_tensors.BadRequestError as error:
            reply.fail("bad_request", str(error))
            return
        self.loop.call_soon_threadsafe(self._start, ask, reply)

    def _start(
        self, ask: engine_tensors.Ask | engine_tensors.HttpAsk | engine_tensors.Abort, reply: replies.Reply
    ) -> None:
        if isinstance(ask, engine_tensors.Abort):
            for other, running in self._active.values():
                if other.request_id == ask.request_id:
                    running.cancel()
            reply.finish()
            return
        self._count += 1
        number = self._count
        joined = self._frames.join(ask, reply)
        task = self.loop.create_task(self._answer(ask, joined, f"r{number}"))
        self._active[number] = (joined, task)
        task.add_done_callback(lambda _: self._end(number, joined))

    def _end(self, number: int, joined: replies.Reply | replies.FramedReply) -> None:
        """Forget a request; a task that is cancelled before its first step has not ended its answer."""
        self._active.pop(number, None)
        joined.finish()

    async def _answer(
        self,
        ask: engine_tensors.Ask | engine_tensors.HttpAsk,
        reply: replies.Reply | replies.FramedReply,
        request_id: str,
    ) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            if isinstance(ask, engine_tensors.HttpAsk):
                assert self._app is not None  # noqa: S101 - requests come after it was made
                await self._app.answer(ask, reply.send_http, self._limits)
            else:
                await text_answers.generate(self._llm, ask, reply, request_id)
        except asyncio.CancelledError:
            reply.finish()
        except EngineDeadError as error:
            reply.fail("engine_dead", str(error))
            _drop_frames(error)
        except (ValueError, TypeError, VLLMClientError) as error:
            reply.fail("bad_request", str(error))
        except Exception as error:  # noqa: BLE001 - every failure must be reported to the client
            reply.fail("engine_failed", f"{type(error).__name__}: {error}")
            _drop_frames(error)
        finally:
            reply.finish()  # does nothing after the last part; a panic of a tokenizer is no Exception

    def stop(self) -> None:
        """Abort running requests, shut the engine down, and end its processes."""
        children = memory_report.list_family(os.getpid())[1:]
        closing = asyncio.run_coroutine_threadsafe(self._close(), self.loop)
        try:
            closing.result(timeout=STOP_S)
        except Exception as error:  # noqa: BLE001 - the kill below must run whatever happened
            pb_utils.Logger.log_warn(f"the engine did not shut down in time: {error!r}")
        for pid in children:
            _kill(pid)
        # The interpreter exits after this: a loop that still runs would crash it.
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=STOP_S)
        self._llm = self._app = None

    async def _close(self) -> None:
        if self._llm.schemas is not None:
            await self._llm.schemas.close()
        self._llm.shutdown(timeout=SHUTDOWN_S)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _schema_check(llm: Any) -> schema_check.SchemaCheck | None:
    """Return the check of schemas for the tokenizer of an engine; None if the engine has none."""
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    tokenizer = llm.renderer.tokenizer
    if tokenizer is None:
        return None
    backend = XgrammarBackend(llm.vllm_config, tokenizer=tokenizer, vocab_size=llm.model_config.get_vocab_size())
    info = backend.compiler.compile_builtin_json_grammar().tokenizer_info
    return schema_check.SchemaCheck(info.serialize_json())


def _drop_frames(error: BaseException | None) -> None:
    """Drop the frames of an error.

    vLLM keeps a fatal error. Its frames reference response senders, which would outlive Triton's shared memory and
    crash the stub at exit.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class TritonPythonModel:
    """The interface that Triton's stub calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model named by the parameters of config.pbtxt."""
        given = engine_tensors.parameters(args)
        model_dir = Path(given["model_dir"])
        if not (model_dir / "config.json").is_file():
            raise pb_utils.TritonModelException(f"load_failed: {model_dir} holds no config.json")
        stub_guard.start()
        device = given.get("device", "cpu")
        engine_args = {**engine_environment.ENGINE_DEFAULTS[device], **json.loads(given.get("engine_args", "{}"))}
        eager = bool(engine_args.get("enforce_eager"))
        engine_environment.prepare(device, json.loads(given.get("environment", "{}")), eager=eager)
        engine_environment.tie_children_to_this_process()
        self._engine: Engine | None = None
        try:
            self._engine = Engine(str(model_dir), engine_args, json.loads(given.get("api", "{}")))
        except BaseException:
            for pid in memory_report.list_family(os.getpid())[1:]:
                _kill(pid)
            raise
        if device == "cpu":
            memory_report.start(args.get("model_repository", ""))

    def execute(self, requests: list[Any]) -> None:
        """Submit requests to the engine; decoupled, so nothing is returned."""
        assert self._engine is not None  # noqa: S101 - initialize raised otherwise
        for request in requests:
            self._engine.submit(request)

    def finalize(self) -> None:
        """Shut the engine down within Triton's exit timeout."""
        if self._engine is not None:
            self._engine.stop()
        # If the interpreter hangs at exit, the kernel ends this process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(EXIT_S)
