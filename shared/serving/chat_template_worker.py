"""Renders chat templates in a process that may do nothing else; run as a script by `shared.serving.chat_templates`.

A template is code from outside. Jinja's sandbox keeps it from Python's insides but not from taking all memory or
running for ever, so it runs here, under limits of the operating system, where killing it harms nobody. Reads one JSON
request a line, answers one JSON line. Imports nothing of ours and inherits no environment.
"""

import ctypes
import functools
import json
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_PR_SET_PDEATHSIG = 1
MEMORY_BYTES = 512 * 1024 * 1024
OUTPUT_CHARS = 2_000_000


class RefusedError(Exception):
    """The template itself refuses this conversation (`raise_exception`)."""


def _refuse(message: str) -> NoReturn:
    raise RefusedError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not Jinja's own filter, which escapes for HTML; templates may give the hubs' options by position, too.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training; rendering passes it through."""

    tags = {"generation"}  # noqa: RUF012 - declared so by Jinja

    def parse(self, parser: Parser) -> Node:
        """Return the statements between the tags; what they set ends with them."""
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def make_environment() -> ImmutableSandboxedEnvironment:
    """Set Jinja up as the model hubs' own libraries do, so that templates come out byte for byte the same."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> Template:
    return make_environment().from_string(source)


def _bounded(pieces: Iterator[str]) -> str:
    found: list[str] = []
    chars = 0
    for piece in pieces:
        chars += len(piece)
        if chars > OUTPUT_CHARS:
            raise OverflowError(f"it wrote more than {OUTPUT_CHARS} characters")
        found.append(piece)
    return "".join(found)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """Render one request: `{"text": …}`, or `{"refused": …}`, or `{"broken": …}`."""
    now = datetime.fromisoformat(request["now"])
    try:
        template = _compile(request["template"])
        pieces = template.generate(**request["variables"], strftime_now=now.strftime)
        return {"text": _bounded(pieces)}
    except RefusedError as error:
        return {"refused": str(error)[:500]}
    except TemplateError as error:
        return {"broken": f"{type(error).__name__}: {error}"[:500]}
    except MemoryError:
        return {"broken": "it used too much memory"}
    except Exception as error:  # noqa: BLE001 - a template can raise anything, and each is its own fault
        return {"broken": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    """Limit this process, say that it is ready, and answer until standard input ends."""
    # A template that never ends would not notice that nobody reads any more.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)  # noqa: T201 - standard output is the way back
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
