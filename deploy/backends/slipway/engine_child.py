"""Start a process of the engine that cannot outlive its parent.

multiprocessing's "spawn" runs this file in place of the interpreter. It requests SIGKILL on the parent's death, then
executes the interpreter. The resource tracker is excluded: it cleans up shared memory after a kill, and ends by itself.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then execute the interpreter."""
    parent = int(os.environ["SLIPWAY_ENGINE_PARENT"])
    interpreter = os.environ["SLIPWAY_ENGINE_PYTHON"]
    arguments = sys.argv[1:]
    if not any("resource_tracker" in argument for argument in arguments):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the engine's parent died before its child started")
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent / "plugins")  # vLLM finds its plugins by metadata
    os.execv(interpreter, [interpreter, *arguments])  # noqa: S606


main()
