"""A vLLM plugin that makes idle engines sleep.

vLLM's processes exchange messages through shared memory, and a reader polls for a whole second after each message. On a
CPU that takes time from other processes on the same cores: with a request every second, an engine that computes 10 % of
the time keeps a core busy all the time. A message wakes the reader anyway, so it can sleep soon.
"""

BUSY_LOOP_S = 0.005
"""Long enough to poll between two tokens of a small model; waking up takes a fraction of a millisecond."""


def register() -> None:
    """Shorten the polling of every reader that is created from now on."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    SpinCondition.__init__.__defaults__ = (BUSY_LOOP_S,)
