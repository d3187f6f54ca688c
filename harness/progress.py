"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing in tests.

One command owns one `Progress`; everything below it reports there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between plain lines of one stage.
PLAIN_INTERVAL = 10.0


class Advance(Protocol):
    """Called with the number of items done since the last call."""

    def __call__(self, items: int = 1) -> None:
        """Advance the stage by `items`."""


class Progress:
    """Silent progress: the base of the others, and what library callers get by default."""

    def note(self, message: str) -> None:
        """Say something once."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Report a stage of work while the block runs; yields the function that advances it."""
        yield lambda items=1: None


class PlainProgress(Progress):
    """Plain lines, for logs: the start and end of each stage, and a line every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def note(self, message: str) -> None:
        """Print one line."""
        print(message, file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Print when the stage begins and ends, and how far it is in between."""
        start = last = time.monotonic()
        done = 0
        of = f"/{total:,}" if total is not None else ""

        def advance(items: int = 1) -> None:
            nonlocal done, last
            done += items
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL:
                last = now
                rate = done / (now - start)
                self.note(f"{title}: {done:,}{of} ({rate:,.1f}/s)")

        yield advance
        count = f"{done:,}{of} in " if done else ""
        self.note(f"{title}: {count}{time.monotonic() - start:.1f} s")


class BarProgress(Progress):
    """Bars on a terminal, by rich."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(message, highlight=False, markup=False)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Show a bar while the block runs."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._console) as bars:
            bar = bars.add_task(title, total=total)

            def advance(items: int = 1) -> None:
                bars.advance(bar, items)

            yield advance
            if total is None:
                task = bars.tasks[0]
                bars.update(bar, total=task.completed or 1, completed=task.completed or 1)


def terminal_progress() -> Progress:
    """Return bars if standard error is a terminal, plain lines otherwise."""
    if sys.stderr.isatty():
        from rich.console import Console

        return BarProgress(Console(stderr=True))
    return PlainProgress()
