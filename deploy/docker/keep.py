"""Run a program, and kill it when it hangs, so that the container is restarted.

    python -m deploy.docker.keep [--start-s 180] [--url http://127.0.0.1:8080/healthz] [--crash-handler] [--children]
        [--bus-store /data] -- PROGRAM …

The rules are those of `slipway up` (`deploy.local.watch`). Compose itself does not restart unhealthy containers.
Needs the standard library only.
"""

import argparse
import contextlib
import http.client
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local import full_disk
from deploy.local.watch import HangDetector, HangLimits, read_activity
from shared.runtime.exits import describe_exit

LIMITS = HangLimits()


def direct_opener() -> urllib.request.OpenerDirector:
    """Return an opener for loopback addresses, without proxies and certificate checks; no secrets are sent."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))


class LivenessProbe(threading.Thread):
    """Probes the program once a second, in its own thread."""

    def __init__(self, url: str, detector: HangDetector) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._detector = detector
        self._opener = direct_opener()

    def run(self) -> None:
        """Probe forever; any HTTP status is an answer."""
        while True:
            self.probe()
            time.sleep(1.0)

    def probe(self) -> None:
        """Probe once; a broken answer is no answer."""
        try:
            with self._opener.open(self._url, timeout=LIMITS.silent_s):
                self._detector.answered()
        except urllib.error.HTTPError:
            self._detector.answered()
        except (OSError, http.client.HTTPException):
            pass


class DiskWatch(threading.Thread):
    """Ends a message bus after a full disk has space again, so that its container is restarted."""

    def __init__(self, url: str, store: Path, end: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        address = urlsplit(url)
        self._url, self._store, self._end = f"{address.scheme}://{address.netloc}", store, end

    def run(self) -> None:
        """Check the disk until the bus must end."""
        why, restarts = None, full_disk.Restarts()
        while why is None:
            time.sleep(full_disk.LOOK_EVERY_S)
            with contextlib.suppress(OSError):  # of the disk
                why = full_disk.look(self._url, self._store, restarts)
        sys.stderr.write(f"keep: {why}; it is started again\n")
        self._end()


def keep(
    command: list[str],
    *,
    url: str,
    start_s: float,
    crash_handler: bool,
    children: bool,
    bus_store: Path | None = None,
) -> int:
    """Run a program until it ends; return its exit code, or 128 + n for signal n."""
    stopping = threading.Event()
    child = subprocess.Popen(command)

    def stop(number: int, _frame: object) -> None:
        stopping.set()
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda number, _frame: child.send_signal(number))  # it is passed on, and is no stop
    detector = HangDetector(LIMITS, start_s, crash_handler=crash_handler)
    LivenessProbe(url, detector).start()
    if bus_store is not None:
        DiskWatch(url, bus_store, lambda: stop(signal.SIGTERM, None)).start()
    last_look = time.monotonic()
    while True:
        try:
            code = child.wait(LIMITS.look_s)
        except subprocess.TimeoutExpired:
            before, last_look = last_look, time.monotonic()
            activity = None
            if detector.needs_activity:
                activity = read_activity(child.pid, crash_handler=crash_handler, children=children)
            why = detector.look(last_look - before, activity, starting=not detector.has_answered)
            if why is not None and not stopping.is_set():
                sys.stderr.write(f"keep: {command[0]} {why} and is killed\n")
                child.kill()
        else:
            break
    sys.stderr.write(f"keep: {command[0]} ended: {describe_exit(code)}\n")
    return code if code >= 0 else 128 - code


def main() -> None:
    """Run the program that the command line names."""
    port = os.environ.get("SLIPWAY_HTTP_PORT", "8080")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}/healthz")
    parser.add_argument("--start-s", type=float, default=180.0)
    parser.add_argument("--crash-handler", action="store_true", help="look for threads in a handler of a fatal signal")
    parser.add_argument("--children", action="store_true", help="the program's work is done by its child processes")
    parser.add_argument("--bus-store", type=Path, help="the program is a message bus; its store_dir")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    kind = {"crash_handler": options.crash_handler, "children": options.children}
    sys.exit(keep(options.command, url=options.url, start_s=options.start_s, bus_store=options.bus_store, **kind))


if __name__ == "__main__":
    main()
