"""Worker processes that Ctrl-C leaves to their parent, and that never outlive it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

T = TypeVar("T")


def usable_cores() -> int:
    """Return the cores that this process may use, which in a container are fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool of processes, started as they are needed.

    They are started by ``spawn``: a forked child would lack the threads of its parent. So a script
    of one's own that uses them needs an ``if __name__ == "__main__"`` guard.

    Parameters
    ----------
    count
        Processes.
    prepare, arguments
        Called in each process at its start.
    """

    def __init__(
        self, count: int, prepare: Callable[..., None] | None = None, *arguments: Any
    ) -> None:
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), _start, (prepare, arguments))

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a worker call `function`."""
        # This may start a process. Ctrl-C reaches every process of the terminal, and one that is
        # still importing would print a traceback; a blocked signal stays blocked in the child.
        with _interrupts_blocked():
            return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """Drop what no worker has begun, and end the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # A parent that is killed cannot end its workers.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
