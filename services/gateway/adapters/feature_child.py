"""The process that computes text features: pickled excerpts in, a JSON line with the features of each out.

It runs at a low priority, and in a sandbox: texts come from outside. One that cannot be described is answered `null`.
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
"""Without MemoryError, which ends the process: the next one has memory again (compiled patterns are never freed)."""
_NICENESS = 10
_FORM_S = 0.25
"""Most time in which one answer is judged by its form: callers write the JSON Schemas."""
_HOLDER_SHARE = 0.25
"""Share of the time that the forms of one holder of keys may take: they must not take that of other answers."""


class _TooLong(BaseException):
    """An answer takes too long to be judged by its form; nothing that judges it may catch this."""


def _give_up(_number: int, _frame: Any) -> None:
    raise _TooLong


class _Descriptions:
    """Describes texts, and remembers the time that forms took, by holder of the keys.

    What a holder took fades by `_HOLDER_SHARE` of the time that passes.
    """

    def __init__(self) -> None:
        self._taken: dict[str, tuple[float, float]] = {}

    def describe(self, texts: Excerpts) -> Described:
        """Return the features of texts; the form of an answer is not judged if that takes too long."""
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
    """Answer text by text until the input ends."""
    finish_imports()
    recognise("")  # loads all that it needs
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
            texts = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the gateway, which reads no pickle itself
            reply = b"null"
            with contextlib.suppress(*_UNREADABLE):
                reply = _DESCRIBED.dump_json(descriptions.describe(texts))
            replies.write(reply + b"\n")


if __name__ == "__main__":
    main()
