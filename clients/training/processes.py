"""The processes of a training job: the first process publishes, and all get the outcome."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from clients.training.errors import PublishError

T = TypeVar("T")
BEAT_S = 20.0
"""Seconds between messages of the first process: an upload may exceed the time limit of a collective."""


class Processes:
    """The processes of this job in `torch.distributed`; a single process if that is not initialised."""

    def __init__(self) -> None:
        """Read the rank of this process and the number of processes."""
        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.count = dist.get_world_size() if joined else 1

    @property
    def is_first(self) -> bool:
        """Whether this process is rank 0 of all nodes and publishes."""
        return self.rank == 0

    def together(self, step: Callable[[], T]) -> T:
        """Run a step in every process and return its result; raise in every process if it fails in any process.

        Raises:
            PublishError: The step failed in another process; an error of this process is raised unchanged.
        """
        if self.count == 1:
            return step()
        result: list[T] = []
        failure: BaseException | None = None
        try:
            result.append(step())
        except Exception as error:  # noqa: BLE001 - raised again below, when the other processes know
            failure = error
        failures: list[str | None] = [None] * self.count
        dist.all_gather_object(failures, None if failure is None else _sentence(failure))
        if failure is not None:
            raise failure
        for rank, sentence in enumerate(failures):
            if sentence is not None:
                raise PublishError(f"Process {rank} of the training failed: {sentence}")
        return result[0]

    def in_first(self, work: Callable[[], T]) -> T:
        """Run work in the first process and return its result in every process; raise in every process if it fails.

        The other processes receive a message at least every `BEAT_S`, within the time limit of a collective. If the
        first process dies, their collective fails.

        Raises:
            PublishError: The work failed in the first process, which raises the error unchanged.
        """
        if self.count == 1:
            return work()
        task = _Task(work) if self.is_first else None
        while True:
            message: list[Any] = [task.wait(BEAT_S) if task is not None else None]
            dist.broadcast_object_list(message, src=0)
            state, value = message[0]
            if state == "failed":
                if task is not None and task.failure is not None:
                    raise task.failure
                raise PublishError(f"The first process of the training failed: {value}")
            if state == "done":
                result: T = value
                return result


class _Task:
    """Work in a separate thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.failure: BaseException | None = None
        self._value: Any = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._value = work()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self.failure = error

    def wait(self, timeout_s: float) -> tuple[str, Any]:
        """Return (`working`, None), (`done`, the result) or (`failed`, a sentence), after at most `timeout_s`."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return "working", None
        return ("done", self._value) if self.failure is None else ("failed", _sentence(self.failure))


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, PublishError) else f"{type(error).__name__}: {error}"
