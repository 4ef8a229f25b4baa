"""Renders chat templates in a restricted process; run as a script by `shared.serving.chat_templates`.

A template is code from outside, and Jinja's sandbox limits neither memory nor time. So it runs in a process with limits
of the operating system, without environment variables. The process reads one JSON request per line and answers with one
JSON line.
"""

import ctypes
import functools
import json
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, meta
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, in isolated mode
from shared.runtime import sandbox

sys.path.pop(0)
_PR_SET_PDEATHSIG = 1
MEMORY_BYTES = 512 * 1024 * 1024
OUTPUT_CHARS = 2_000_000


class RejectedError(Exception):
    """The template rejected this conversation (`raise_exception`)."""


def _reject(message: str) -> NoReturn:
    raise RejectedError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML. Templates may pass the options of the hubs by position, too.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; rendering keeps the content unchanged."""

    tags = {"generation"}  # noqa: RUF012 - declared so by Jinja

    def parse(self, parser: Parser) -> Node:
        """Return the statements between the tags, as a scope of their own."""
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def make_environment() -> ImmutableSandboxedEnvironment:
    """Return a Jinja environment configured as in transformers, for byte-identical results."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _reject
    return environment


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> Template:
    return make_environment().from_string(source)


def _bounded(pieces: Iterator[str]) -> str:
    texts: list[str] = []
    chars = 0
    for piece in pieces:
        chars += len(piece)
        if chars > OUTPUT_CHARS:
            raise OverflowError(f"it wrote more than {OUTPUT_CHARS} characters")
        texts.append(piece)
    return "".join(texts)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the result of one request: `{"text": …}`, `{"rejected": …}` or `{"failed": …}`.

    A request without variables returns the names of the template's variables: `{"variables": […]}`.
    """
    try:
        if "variables" not in request:
            environment = make_environment()
            names = meta.find_undeclared_variables(environment.parse(request["template"])) - set(environment.globals)
            return {"variables": sorted(names - {"strftime_now"})}
        now = datetime.fromisoformat(request["now"])
        template = _compile(request["template"])
        pieces = template.generate(**request["variables"], strftime_now=now.strftime)
        return {"text": _bounded(pieces)}
    except RejectedError as error:
        return {"rejected": str(error)[:500]}
    except TemplateError as error:
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    except MemoryError:
        return {"failed": "it used too much memory"}
    except Exception as error:  # noqa: BLE001 - a template can raise any error
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    """Set the limits of this process, report that it is ready, and answer until standard input ends."""
    # An endless template would not notice that its parent has ended.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sandbox.enter()
    print("ready", flush=True)  # noqa: T201 - standard output carries the results
    for line in sys.stdin:
        request = json.loads(line)
        # By processor time, which a busy machine does not change; the signal ends this process.
        signal.setitimer(signal.ITIMER_PROF, request["limit_s"])
        reply = json.dumps(answer(request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(reply, flush=True)  # noqa: T201 - standard output is the channel


if __name__ == "__main__":
    main()
