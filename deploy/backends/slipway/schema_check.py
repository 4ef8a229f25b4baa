"""Schemas and grammars of requests, compiled within limits in another process before they reach the engine.

vLLM compiles schemas without a limit, and converts them on the event loop of all requests. So each is first compiled by
`schema_child`; the outcome is cached by the schema's digest.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from decisions.openai.limits import Refusal

CHILD = Path(__file__).resolve().parent / "schema_child.py"
KEPT_OUTCOMES = 4_096
MAX_WAITING = 64
"""Limit of schemas waiting for compilation, above which further ones are refused."""
COSTLY = "schema_too_costly"
ANSWER_S = 30.0
"""Time limit of the child for one schema, including its start; it ends a schema itself after 10 s."""


@dataclass(frozen=True)
class Schema:
    """A schema or grammar of a request.

    Attributes:
        field: field of the body.
        kind: `json`, `grammar`, `lark`, `regex` or `structural_tag`.
        spec: input of the compiler.
    """

    field: str
    kind: str
    spec: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of compiling a schema: `ok`, `invalid` or `costly`, and why; `busy` if it was not compiled."""

    outcome: str
    message: str = ""


def find_schemas(body: Mapping[str, Any]) -> Iterator[Schema]:
    """Yield the JSON schemas of a body that constrain the answer: of its format, and of its tools' parameters."""
    text = body.get("text")
    formats = {
        "response_format": body.get("response_format"),
        "text": text.get("format") if isinstance(text, dict) else None,
    }
    for name, given in formats.items():
        if isinstance(given, dict) and given.get("type") == "json_schema":
            holder = given.get("json_schema") if name == "response_format" else given
            if isinstance(holder, dict) and isinstance(holder.get("schema"), dict):
                yield Schema(name, "json", json.dumps(holder["schema"]))
    structures = body.get("structured_outputs")
    if isinstance(structures, dict) and isinstance(structures.get("json"), dict):
        yield Schema("structured_outputs", "json", json.dumps(structures["json"]))
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        holder = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(holder, dict) or not isinstance(holder.get("parameters"), dict):
            continue
        if _constrains(body.get("tool_choice"), holder):
            yield Schema("tools", "json", json.dumps(holder["parameters"]))


def _constrains(choice: Any, function: Mapping[str, Any]) -> bool:
    """Return whether a function's parameters constrain the answer with every tool parser: it is strict and allowed.

    Constraints by some parsers only are checked by `require_compiled`.
    """
    if choice == "none" or not function.get("strict"):
        return False
    chosen = choice.get("function", choice) if isinstance(choice, dict) else None
    name = chosen.get("name") if isinstance(chosen, dict) else None
    return name is None or name == function.get("name")


def _find_choice(body: Mapping[str, Any]) -> Iterator[Schema]:
    """Yield the grammar of a list of choices."""
    structures = body.get("structured_outputs")
    choice = structures.get("choice") if isinstance(structures, dict) else None
    if isinstance(choice, list) and choice and all(isinstance(item, str) for item in choice):
        from vllm.v1.structured_output.utils import choice_as_grammar

        yield Schema("structured_outputs", "grammar", choice_as_grammar(choice))


def find_constraint(given: Any) -> Schema | None:
    """Return the constraint that vLLM compiles for `StructuredOutputsParams`; None for a constant."""
    from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

    field = "tools or response_format"
    if given.json is not None:
        return Schema(field, "json", given.json if isinstance(given.json, str) else json.dumps(given.json))
    if given.choice is not None:
        return Schema(field, "grammar", choice_as_grammar(given.choice))
    if given.grammar is not None:
        return Schema(field, "lark" if grammar_is_likely_lark(given.grammar) else "grammar", given.grammar)
    if given.regex is not None:
        return Schema(field, "regex", given.regex)
    if given.structural_tag is not None:
        return Schema(field, "structural_tag", given.structural_tag)
    return None


def is_unsupported(schema: Schema) -> bool:
    """Return whether xgrammar would ignore a part of a JSON schema; False for grammars."""
    if schema.kind != "json":
        return False
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    return has_xgrammar_unsupported_json_features(json.loads(schema.spec))


async def find_refusal(check: "SchemaCheck", body: Mapping[str, Any]) -> Refusal | None:
    """Return the refusal of a body's schemas, or None; invalid parameters of tools are left to the engine."""
    for schema in (*find_schemas(body), *_find_choice(body)):
        compiled = await check.compile(schema)
        if compiled.outcome == "busy":
            return busy(schema.field)
        if compiled.outcome == "costly":
            return Refusal(400, COSTLY, _costly_message(schema, compiled), schema.field)
        if schema.field != "tools" and (compiled.outcome == "invalid" or is_unsupported(schema)):
            reason = compiled.message or "it uses keywords that the engine's compiler does not support"
            return Refusal(400, "invalid_schema", f"{schema.field} has a schema that fails: {reason}", schema.field)
    return None


def busy(what: str) -> Refusal:
    """Return the refusal of schemas while too many others wait."""
    return Refusal(
        429, "schemas_busy", f"{what} could not be compiled in time, because other schemas are waiting; try again soon."
    )


def _costly_message(schema: Schema, compiled: Outcome) -> str:
    return (
        f"{schema.field} has a schema that takes more than {compiled.message}. "
        "Remove nested repetitions and long patterns from it, or lower their bounds."
    )


async def require_compiled(check: "SchemaCheck", given: Any) -> None:
    """Return if a request's constraint compiles within the limits.

    Raises:
        VLLMValidationError: it does not compile, or is too costly (`refusal_code`).
        GracefulHTTPError: 429, too many schemas wait for compilation.
    """
    from vllm.exceptions import GracefulHTTPError, VLLMValidationError

    if (schema := find_constraint(given)) is None:
        return
    compiled = await check.compile(schema)
    if compiled.outcome == "costly":
        raise _with_code(VLLMValidationError(_costly_message(schema, compiled)), COSTLY)
    if compiled.outcome == "busy":
        refusal = busy(schema.field)
        raise _with_code(GracefulHTTPError(refusal.message, HTTPStatus(refusal.status)), refusal.code)
    if compiled.outcome == "invalid":
        raise VLLMValidationError(f"The constraint of the answer does not compile: {compiled.message}")


def _with_code(error: Exception, code: str) -> Exception:
    """Return an error with a code for its record: another target may accept the same request."""
    error.refusal_code = code  # type: ignore[attr-defined]  # vLLM's classes have no place for it
    return error


class SchemaCheck:
    """Compiles schemas in a child process, one at a time; call `close` at the end."""

    def __init__(self, tokenizer: str) -> None:
        """Take the tokenizer of the model, as xgrammar's JSON."""
        self._tokenizer = tokenizer
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._number = 0
        self._child: asyncio.subprocess.Process | None = None

    async def compile(self, schema: Schema) -> Outcome:
        """Return the outcome of a schema, from the cache or by compilation.

        Raises:
            RuntimeError: the child process cannot be started.
        """
        key = hashlib.sha256(f"{schema.kind}\0{schema.spec}".encode()).hexdigest()
        if (known := self._outcomes.get(key)) is not None:
            return known
        if self._waiting >= MAX_WAITING:
            return Outcome("busy")
        self._waiting += 1
        left = asyncio.Event()
        # A caller that leaves must not leave the child's answer to the next schema.
        task = asyncio.ensure_future(self._compile(key, schema, left))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            left.set()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _compile(self, key: str, schema: Schema, left: asyncio.Event) -> Outcome:
        """Compile a schema at its turn, unless its caller has left."""
        try:
            async with self._turn:
                if (known := self._outcomes.get(key)) is not None:
                    return known
                outcome = Outcome("busy") if left.is_set() else await self._ask(schema)
                if outcome.outcome != "busy":
                    self._outcomes[key] = outcome
                    if len(self._outcomes) > KEPT_OUTCOMES:
                        self._outcomes.popitem(last=False)
                return outcome
        finally:
            self._waiting -= 1

    async def start(self) -> None:
        """Start the child process before the first schema."""
        async with self._turn:
            await self._running()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            python = os.environ.get("SLIPWAY_ENGINE_PYTHON", sys.executable)
            pipe = asyncio.subprocess.PIPE
            self._child = await asyncio.create_subprocess_exec(python, "-I", str(CHILD), stdin=pipe, stdout=pipe)
            assert self._child.stdin is not None  # noqa: S101 - it is a pipe
            self._child.stdin.write(json.dumps(self._tokenizer).encode() + b"\n")
        return self._child

    async def _ask(self, schema: Schema) -> Outcome:
        self._number += 1
        request = {"number": self._number, "kind": schema.kind, "spec": schema.spec}
        for _ in range(2):  # a child that was killed from outside, or hangs, is replaced once
            child = await self._running()
            assert child.stdin is not None and child.stdout is not None  # noqa: PT018, S101 - they are pipes
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    child.stdin.write(json.dumps(request).encode() + b"\n")
                    await child.stdin.drain()
                    while line := await child.stdout.readline():
                        answer = json.loads(line)
                        if answer["number"] == self._number:  # a fork may be killed after its answer
                            return Outcome(answer["outcome"], answer["message"])
            await self.close()
        raise RuntimeError("the process that compiles schemas ended twice")

    async def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
