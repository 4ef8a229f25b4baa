"""Child process that computes text features: reads pickled excerpts, writes one JSON line for each.

It runs at low priority and in a sandbox, because texts are untrusted. The line is `null` if computing fails.
"""

import contextlib
import os
import pickle
import resource
import signal
import sys
import time
from typing import Any

from pydantic import TypeAdapter

from services.gateway.domain.excerpts import Described, Excerpts
from services.gateway.domain.features import describe, describe_unjudged
from shared.runtime import sandbox
from shared.runtime.program_imports import finish_imports
from shared.serving.languages import recognise

_DESCRIBED = TypeAdapter(Described)
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""Not MemoryError: it ends the process, and its successor starts with free memory."""
_NICENESS = 10
_FORM_S = 0.25
"""Time limit for validating one answer's format, because callers write the JSON Schemas."""
_HOLDER_SHARE = 0.25
"""Share of the process's time available for one key holder's format validation."""


class _TooLong(BaseException):
    """Format validation exceeded its time; a BaseException, so that validators' `except Exception` misses it."""


def _give_up(_number: int, _frame: Any) -> None:
    raise _TooLong


class _Descriptions:
    """Computes features of texts, and limits the validation time of each key holder.

    A holder's recorded time decreases by `_HOLDER_SHARE` of elapsed time.
    """

    def __init__(self) -> None:
        self._taken: dict[str, tuple[float, float]] = {}

    def describe(self, texts: Excerpts) -> Described:
        """Return the features of texts, without format validation if its time is used up."""
        if not texts.form:
            return describe(texts, recognise)
        now_s = time.monotonic()
        taken_s, at_s = self._taken.get(texts.holder, (0.0, now_s))
        taken_s = max(0.0, taken_s - _HOLDER_SHARE * (now_s - at_s))
        if taken_s >= _FORM_S:
            return describe_unjudged(texts)
        try:
            signal.setitimer(signal.ITIMER_REAL, _FORM_S - taken_s)
            return describe(texts, recognise)
        except _TooLong:
            return describe_unjudged(texts)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            self._taken[texts.holder] = taken_s + time.monotonic() - now_s, now_s


def main() -> None:
    """Answer each pickle on standard input until it ends."""
    finish_imports()
    recognise("")  # loads the language models
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sandbox.enter()
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, _give_up)
    replies.write(b"ready\n")
    descriptions = _Descriptions()
    with contextlib.suppress(EOFError):
        while True:
            texts = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the gateway
            reply = b"null"
            with contextlib.suppress(*_UNREADABLE):
                reply = _DESCRIBED.dump_json(descriptions.describe(texts))
            replies.write(reply + b"\n")


if __name__ == "__main__":
    main()
