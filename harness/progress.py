"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing in tests.

One command owns one `Progress`; everything below it reports there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

#: Seconds between plain lines of one stage.
PLAIN_INTERVAL = 10.0


class Advance(Protocol):
    """Called with the number of items done since the last call, and perhaps a remark."""

    def __call__(self, items: int = 1, note: str = "") -> None:
        """Advance the stage by `items`."""


class Progress:
    """Silent progress: the base of the others, and what library callers get by default."""

    def note(self, message: str) -> None:
        """Say something once."""

    @contextmanager
    def stage(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """Report a stage of work while the block runs; yields the function that advances it.

        Parameters
        ----------
        title
            What is done.
        total
            Items of the stage, if known.
        done
            Items of these that an earlier process did.
        """
        yield lambda items=1, note="": None


class PlainProgress(Progress):
    """Plain lines, for logs: the start and end of each stage, and a line every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def note(self, message: str) -> None:
        """Print one line."""
        print(message, file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """Print when the stage ends, and in between how far it is and how long it will take."""
        start = last = time.monotonic()
        begun, remark = done, ""
        of = f"/{total:,}" if total is not None else ""

        def advance(items: int = 1, note: str = "") -> None:
            nonlocal done, last, remark
            done, remark = done + items, note
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL:
                last = now
                rate = (done - begun) / (now - start)
                parts = [f"{rate:,.1f}/s"]
                if total is not None and rate:
                    parts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
                self.note(f"{title}: {done:,}{of} ({', '.join([*parts, *_if_any(note)])})")

        yield advance
        count = f"{done:,}{of} in " if done else ""
        seconds = time.monotonic() - start
        self.note(", ".join([f"{title}: {count}{seconds:.1f} s", *_if_any(remark)]))


class BarProgress(Progress):
    """Bars on a terminal, by rich; those of stages within stages stand below one another."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(message, highlight=False, markup=False)

    @contextmanager
    def stage(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """Show a bar while the block runs."""
        with self._shown() as bars:
            bar = bars.add_task(title, total=total, completed=done, rate="", note="")
            start, fresh = time.monotonic(), 0

            def advance(items: int = 1, note: str = "") -> None:
                nonlocal fresh
                fresh += items
                rate = fresh / max(time.monotonic() - start, 1e-9)
                bars.update(bar, advance=items, rate=f"{rate:,.1f}/s", note=note)

            yield advance
            if total is None:
                bars.update(bar, total=fresh or 1, completed=fresh or 1)

    @contextmanager
    def _shown(self) -> Iterator[Bars]:
        """Yield the bars on the screen: a terminal shows one display at a time."""
        if self._bars is not None:
            yield self._bars
            return
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
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        try:
            with Bars(*columns, console=self._console) as self._bars:
                yield self._bars
        finally:
            self._bars = None


def _if_any(note: str) -> list[str]:
    return [note] if note else []


def terminal_progress() -> Progress:
    """Return bars if standard error is a terminal, plain lines otherwise."""
    if sys.stderr.isatty():
        from rich.console import Console

        return BarProgress(Console(stderr=True))
    return PlainProgress()
