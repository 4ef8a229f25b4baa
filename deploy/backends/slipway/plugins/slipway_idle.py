"""A vLLM plugin: an engine that has nothing to do sleeps.

vLLM's processes pass work through shared memory, and a reader keeps polling for a whole second after each message. On a
CPU that second is taken from whoever shares the cores: with a request every second, an engine that computes a tenth of
the time keeps a core busy all the time. The reader is woken by a message anyway, so it may go to sleep soon.
"""

BUSY_LOOP_S = 0.005
"""Long enough to stay awake between two tokens of a small model; waking up takes a fraction of a millisecond."""


def register() -> None:
    """Shorten the polling of every reader that is made from now on."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    SpinCondition.__init__.__defaults__ = (BUSY_LOOP_S,)
