"""Renders chat templates in a sandboxed child process, with limits of processor time, memory and output."""

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import Permanent, Transient
from shared.runtime.clock import Clock
from shared.runtime.process import child_command

_WORKER = Path(__file__).with_name("chat_template_worker.py")
_LINE_BYTES = 16 * 1024 * 1024
_START_S = 30.0
_BUSY_FACTOR = 10.0
"""Limit of a rendering's elapsed time, in multiples of its limit of processor time."""


class ChatTemplates:
    """A child process that renders one template at a time, started on first use and replaced after a kill.

    Args:
        clock: The date for templates.
        limit_s: Limit of processor time of a rendering, in seconds.
        wait_s: Limit of elapsed time, in seconds; by default ten times `limit_s`.
    """

    def __init__(self, clock: Clock, *, limit_s: float = 2.0, wait_s: float | None = None) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._wait_s = wait_s if wait_s is not None else _BUSY_FACTOR * limit_s
        self._lock = asyncio.Lock()
        self._child: Process | None = None

    async def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Return a conversation rendered as a prompt.

        Args:
            template: The model's chat template (Jinja).
            messages: The turns, each with `role` and `content`.
            bos_token: The template's variable `bos_token`.
            eos_token: The template's variable `eos_token`.
            add_generation_prompt: Whether the prompt ends with the beginning of the assistant's turn.
            variables: More variables of the template (`tools` …).

        Raises:
            Permanent: `bad_request` if the template rejects this conversation; `engine_failed` if the template fails or
                exceeds its limits.
            Transient: `internal_error` if the child process does not start; `engine_failed` if the machine is too busy.
        """
        defaults = {"bos_token": bos_token or "", "eos_token": eos_token or "", "tools": None, "documents": None}
        fixed = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return await self.render_with(template, {**defaults, **variables, **fixed})

    async def render_with(self, template: str, variables: Mapping[str, Any]) -> str:
        """Return a template rendered with exactly these variables; raise as `render` does."""
        request = {"template": template, "now": self._clock.now().isoformat(), "variables": dict(variables)}
        reply = await self._ask(request)
        return str(reply["text"])

    async def variables_of(self, template: str) -> frozenset[str]:
        """Return the names of a template's variables; raise as `render` does."""
        reply = await self._ask({"template": template})
        return frozenset(reply["variables"])

    async def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self._exchange(json.dumps({**request, "limit_s": self._limit_s}).encode() + b"\n")
        if "rejected" in reply:
            raise Permanent("bad_request", f"The chat template rejects this conversation: {reply['rejected']}")
        if "failed" in reply:
            raise Permanent("engine_failed", f"The chat template cannot be rendered: {reply['failed']}.")
        if "interrupted" in reply:
            raise Transient(
                "engine_failed", f"The chat template was not rendered: {reply['interrupted']}; the machine is busy."
            )
        return reply

    async def close(self) -> None:
        """End the child process."""
        async with self._lock:
            await self._end()

    async def _exchange(self, line: bytes) -> dict[str, Any]:
        async with self._lock:
            child = await self._running()
            assert child.stdin is not None  # noqa: S101 - it was started with pipes
            assert child.stdout is not None  # noqa: S101 - it was started with pipes
            reply: dict[str, Any] | None = None
            try:
                async with asyncio.timeout(self._wait_s):
                    child.stdin.write(line)
                    await child.stdin.drain()
                    reply = _parse(await child.stdout.readline())
                    return reply or self._describe_end(await child.wait())
            except TimeoutError:
                return {"interrupted": f"it got less than {self._limit_s:g} s of processor time in {self._wait_s:g} s"}
            except ConnectionError:
                return self._describe_end(await child.wait())
            except ValueError as error:
                return {"failed": f"it wrote what is no reply ({type(error).__name__})"}
            finally:
                # Also if the caller was cancelled: a late reply must not be read as that of the next request.
                if reply is None:
                    await self._end()

    def _describe_end(self, returncode: int) -> dict[str, Any]:
        if returncode == -signal.SIGPROF:
            return {"failed": f"it exceeded the limit of {self._limit_s:g} s of processor time"}
        if returncode == -signal.SIGKILL:
            return {"interrupted": "its process was killed from outside"}  # by the kernel, for memory
        return {"failed": f"it ended its process ({returncode})"}

    async def _running(self) -> Process:
        if self._child is not None and self._child.returncode is None:
            return self._child
        ready = b""
        try:
            # No environment: a template must not be able to read secrets of the service.
            self._child = await asyncio.create_subprocess_exec(
                *child_command([sys.executable, "-I", str(_WORKER)], alone=True),
                stdin=PIPE,
                stdout=PIPE,
                env={"LC_ALL": "C.UTF-8"},
                limit=_LINE_BYTES,
            )
            assert self._child.stdout is not None  # noqa: S101 - it was started with pipes
            async with asyncio.timeout(_START_S):
                ready = await self._child.stdout.readline()
        except (TimeoutError, OSError, ValueError):
            ready = b""
        finally:
            # Also if the caller was cancelled: else its `ready` would be read as the reply to the next request.
            if ready.strip() != b"ready":
                await self._end()
        if self._child is None:
            raise Transient("internal_error", "The process that renders chat templates does not start.")
        return self._child

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a reply of the child process, or None if it is truncated; raise ValueError if it is no JSON."""
    if not line.endswith(b"\n"):
        return None
    reply: dict[str, Any] = json.loads(line)
    return reply
