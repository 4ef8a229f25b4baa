"""Triton Python-based backend with the tensors of the real engine and generated, deterministic text.

For tests without vLLM: it loads in a fraction of a second. It reads the model folder, so that a missing or corrupt
artifact fails the load.

``parameters`` of config.pbtxt:
    model_dir: folder with a config.json (required).
    tokens: length of an answer if the request names none (default 8).
    token_delay_ms: pause before each token (default 0).
    load_delay_ms: pause while loading (default 0).
    fail_load: when "true", loading fails.
    crash_text: in a prompt, kills the stub with SIGKILL.
    dead_text: in a prompt, simulates a dead engine: every later request is an engine_dead error.
    mute_text: in a prompt, makes the answer empty.
    template_fails_text, fail_text, break_text: see `toy_api`.
    context_tokens: limit of prompt and answer in the OpenAI API (default: the model's, or 4096).
    api: JSON object of the settings of the OpenAI API: `model` and `fingerprint` of answers, and `limits`.
    token_nll: negative log-likelihood of each token of a prompt, in nats (default 2).
    answer_nll: negative log-likelihood of each token of an answer, in nats (default 0.5).
"""

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import engine_tensors  # noqa: E402 - found by the path above
import memory_report  # noqa: E402 - found by the path above
import replies  # noqa: E402 - found by the path above
import stub_guard  # noqa: E402 - found by the path above
import toy_api  # noqa: E402 - found by the path above
import triton_python_backend_utils as pb_utils  # noqa: E402 - found by the path above
from toy_engine import EngineDeadError, ToyEngine, count_tokens, make_token  # noqa: E402 - found by the path above


class TritonPythonModel:
    """The interface that Triton's stub calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the model folder and start the event loop."""
        given = engine_tensors.parameters(args)
        stub_guard.start()
        config = Path(given["model_dir"]) / "config.json"
        time.sleep(float(given.get("load_delay_ms", "0")) / 1000)
        if given.get("fail_load") == "true":
            raise pb_utils.TritonModelException("load_failed: the parameter fail_load is set")
        try:
            self._engine = ToyEngine(given, config.read_bytes())
        except (OSError, ValueError) as error:
            raise pb_utils.TritonModelException(f"load_failed: {config} cannot be read: {error}") from error
        self._api = toy_api.ToyApi(self._engine, json.loads(given.get("api", "{}")))
        self._tasks: dict[replies.Reply | replies.FramedReply, asyncio.Task[None]] = {}
        self._frames = replies.Frames()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="toy", daemon=True).start()
        memory_report.start(args.get("model_repository", ""))

    def execute(self, requests: list[Any]) -> None:
        """Answer each request in its own coroutine."""
        for request in requests:
            reply = replies.Reply(request)
            try:
                ask = engine_tensors.parse_http(request) or engine_tensors.parse(request)
            except engine_tensors.BadRequestError as error:
                reply.fail("bad_request", str(error))
                continue
            self._loop.call_soon_threadsafe(self._start, ask, reply)

    def _start(
        self, ask: engine_tensors.Ask | engine_tensors.HttpAsk | engine_tensors.Abort, reply: replies.Reply
    ) -> None:
        if isinstance(ask, engine_tensors.Abort):
            for other, running in self._tasks.items():
                if other.request_id == ask.request_id:
                    running.cancel()
            reply.finish()
            return
        joined = self._frames.join(ask, reply)
        task = self._loop.create_task(self._answer(ask, joined))
        self._tasks[joined] = task
        task.add_done_callback(lambda _: self._end(joined))

    def _end(self, joined: replies.Reply | replies.FramedReply) -> None:
        """Forget a request; a task that is cancelled before its first step has not ended its answer."""
        self._tasks.pop(joined)
        joined.finish()

    async def _answer(
        self, ask: engine_tensors.Ask | engine_tensors.HttpAsk, reply: replies.Reply | replies.FramedReply
    ) -> None:
        try:
            if isinstance(ask, engine_tensors.HttpAsk):
                await self._api.answer(ask, reply.send_http, reply.is_cancelled)
            else:
                await self._generate(ask, reply)
        except asyncio.CancelledError:
            reply.finish()
        except EngineDeadError as error:
            reply.fail("engine_dead", str(error))
        except (ValueError, TypeError) as error:
            reply.fail("bad_request", str(error))
        except Exception as error:  # noqa: BLE001 - every failure must be reported to the client
            reply.fail("engine_failed", f"{type(error).__name__}: {error}")
        finally:
            reply.finish()  # does nothing after the last part

    async def _generate(self, ask: engine_tensors.Ask, reply: replies.Reply) -> None:
        self._engine.take_prompt(ask.text)
        count = int(ask.sampling.get("max_tokens") or self._engine.tokens)
        seed = self._engine.seed + ask.text
        mute = self._engine.holds("mute_text", ask.text)
        inputs = len(ask.token_ids) if ask.token_ids else count_tokens(ask.text)
        for index in range(count):
            await self._engine.wait_for_token(index)
            self._engine.raise_if_dead()
            if reply.is_cancelled():
                return
            token = "" if mute else make_token(seed, index)
            reason = "length" if index == count - 1 else None
            scores = [None, *[self._engine.token_logprob] * (inputs - 1)]
            if reason or not ask.want_prompt_logprobs:
                piece = engine_tensors.Piece(token, reason, inputs, 1, [self._engine.answer_logprob], scores)
                reply.send(ask, piece)

    def finalize(self) -> None:
        """Stop the event loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
