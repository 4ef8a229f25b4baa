"""The process that describes texts: a JSON line with excerpts in, a JSON line with features out.

It runs at a low priority, and in a sandbox: texts come from outside. One that cannot be described is answered `null`.
"""

import contextlib
import json
import os
import resource
import sys

from services.gateway.domain.features import Excerpts, describe_excerpts
from shared.runtime import sandbox
from shared.runtime.program_imports import finish_imports

READY = b"ready\n"
_NICENESS = 10


def main() -> None:
    """Answer line by line until the input ends."""
    finish_imports()
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sandbox.enter()
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    replies.write(READY)
    for line in sys.stdin.buffer:
        reply = b"null"
        with contextlib.suppress(ValueError, TypeError, MemoryError):
            reply = describe_excerpts(Excerpts(**json.loads(line))).model_dump_json().encode()
        replies.write(reply + b"\n")


if __name__ == "__main__":
    main()
