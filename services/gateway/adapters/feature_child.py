"""The process that describes texts: a JSON line with excerpts in, a JSON line with features out.

It runs at a low priority, and in a sandbox: texts come from outside. One that cannot be described is answered `null`.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any

from services.gateway.domain.excerpts import Excerpts
from shared.runtime import sandbox
from shared.runtime.program_imports import finish_imports

READY = b"ready\n"
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError, MemoryError)
_NICENESS = 10
_TEXT_S = 0.25
"""Processor time for one text; callers write the JSON Schemas that their answers are judged by."""


class _TooLongError(ValueError):
    """A text takes too long to be described; a schema that does cannot be checked."""


def _give_up(_number: int, _frame: Any) -> None:
    raise _TooLongError


def main() -> None:
    """Answer line by line until the input ends."""
    from services.gateway.domain.features import describe
    from shared.serving.languages import recognise

    finish_imports()
    recognise("")  # loads all that it needs
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sandbox.enter()
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGVTALRM, _give_up)
    replies.write(READY)
    for line in sys.stdin.buffer:
        reply = b"null"
        with contextlib.suppress(*_UNREADABLE):
            signal.setitimer(signal.ITIMER_VIRTUAL, _TEXT_S)
            reply = describe(Excerpts(**json.loads(line)), recognise).model_dump_json().encode()
        replies.write(reply + b"\n")


if __name__ == "__main__":
    main()
