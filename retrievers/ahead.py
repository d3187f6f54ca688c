"""Makes the items of an iterator in a thread, ahead of whoever uses them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")

#: How often a waiting thread looks whether it is still wanted, in seconds.
_POLL = 0.1


class Ahead(Generic[T]):
    """An iterator over `items`, at most `depth` of which are made before they are asked for.

    The model computes without holding Python's lock, so a thread is enough to cut frames and
    tokenise texts beside it. An error in the thread is raised where its item would have come.
    Closing ends the thread.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._made: Queue[tuple[T | None, BaseException | None, bool]] = Queue(depth)
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._make, name="qwen-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        try:
            while True:
                item, error, more = self._made.get()
                if error is not None:
                    raise error
                if not more:
                    return
                yield item  # type: ignore[misc]
        finally:
            self.close()

    def close(self) -> None:
        """End the thread."""
        self._unwanted.set()
        self._thread.join()

    def _make(self) -> None:
        try:
            for item in self._items:
                if not self._put((item, None, True)):
                    return
            self._put((None, None, False))
        # Whatever it is, it belongs to whoever asked.
        except BaseException as error:  # noqa: BLE001
            self._put((None, error, False))

    def _put(self, made: tuple[T | None, BaseException | None, bool]) -> bool:
        while not self._unwanted.is_set():
            try:
                self._made.put(made, timeout=_POLL)
            except Full:
                continue
            return True
        return False
