"""Waiting for a condition, and steps that print what they do and how long they took."""

import contextlib
import time
from collections.abc import Callable, Iterator


def wait_for(
    true: Callable[[], object], limit_s: float, what: str, why: Callable[[], object] = lambda: "", every_s: float = 1.0
) -> None:
    """Return when a condition holds.

    Raises:
        TimeoutError: It did not hold within the limit; the message ends with what `why` returns.
    """
    end = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {limit_s:g} s {why()}".rstrip())
        time.sleep(every_s)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Print what begins, and how long it took; a step that fails says so."""
    began = time.monotonic()
    print(f"-- {title}", flush=True)
    try:
        yield
    except BaseException:
        print(f"   failed after {time.monotonic() - began:.1f} s: {title}", flush=True)
        raise
    print(f"   {time.monotonic() - began:.1f} s", flush=True)


def report(text: str) -> None:
    """Print what was seen in a step."""
    print(f"   {text}", flush=True)
