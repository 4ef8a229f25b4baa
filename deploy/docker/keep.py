"""Runs a program and kills it when it hangs, so that the container ends and is started again.

    python -m deploy.docker.keep [--start-s 60] [--url http://127.0.0.1:8080/healthz] [--crash-handler] -- PROGRAM …

The rules are those of `slipway up` (`deploy.local.watch`). Compose itself does not start unhealthy containers again.
Needs nothing but the standard library.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from deploy.local.watch import Judge, Patience, read_activity
from shared.runtime.exits import describe_end

PATIENCE = Patience()
LEAVING_S = 60.0
"""How long a program that has closed its port may take to end."""


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks on loopback, whatever proxies the environment names."""


class Asking(threading.Thread):
    """Asks once a second, apart from the looks, so that a question that gets no answer holds none of them up."""

    def __init__(self, url: str, judge: Judge) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._judge = judge

    def run(self) -> None:
        """Ask for ever; any status is an answer."""
        while True:
            try:
                with DIRECT.open(self._url, timeout=PATIENCE.silent_s):
                    self._judge.answered()
            except urllib.error.HTTPError:
                self._judge.answered()
            except urllib.error.URLError as error:
                if isinstance(error.reason, ConnectionRefusedError):
                    self._judge.refused()
            except OSError:
                pass
            time.sleep(1.0)


def keep(command: list[str], *, url: str, start_s: float, crash_handler: bool) -> int:
    """Run a program to its end; return its exit code, 128 + n for signal n."""
    stopping = threading.Event()
    child = subprocess.Popen(command)

    def stop(number: int, _frame: object) -> None:
        stopping.set()
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    judge = Judge(PATIENCE, start_s, LEAVING_S)
    Asking(url, judge).start()
    looked = time.monotonic()
    while True:
        try:
            code = child.wait(PATIENCE.look_s)
        except subprocess.TimeoutExpired:
            before, looked = looked, time.monotonic()
            activity = read_activity(child.pid, crash_handler=crash_handler)
            why = judge.look(looked - before, activity, ready=judge.has_answered, based=True)
            if why is not None and not stopping.is_set():
                sys.stderr.write(f"keep: {command[0]} {why} and is killed\n")
                child.kill()
        else:
            break
    sys.stderr.write(f"keep: {command[0]} ended: {describe_end(code)}\n")
    return code if code >= 0 else 128 - code


def main() -> None:
    """Read the command line and run."""
    port = os.environ.get("SLIPWAY_HTTP_PORT", "8080")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}/healthz")
    parser.add_argument("--start-s", type=float, default=60.0)
    parser.add_argument("--crash-handler", action="store_true", help="look for threads in a handler of a fatal signal")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    sys.exit(keep(options.command, url=options.url, start_s=options.start_s, crash_handler=options.crash_handler))


if __name__ == "__main__":
    main()
