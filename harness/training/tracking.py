"""Figures of a training to trackio or wandb, which are called alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from harness.errors import UsageError

TRACKERS = ("trackio", "wandb")

Tell = Callable[[Mapping[str, float], int], None]


@contextmanager
def tracker(name: str | None, run: str, config: Mapping[str, Any]) -> Iterator[Tell]:
    """Yield what takes the figures of a step; nothing happens to them without a `name`.

    Raises
    ------
    UsageError
        If there is no such tracker, or it is not installed.
    """
    if name is None:
        yield lambda figures, step: None
        return
    if name not in TRACKERS:
        raise UsageError(f"--track {name}: choose {' or '.join(TRACKERS)}.")
    try:
        library = import_module(name)
    except ImportError:
        raise UsageError(
            f"--track {name} needs the package: pip install 'clamr-bench[{name}]'."
        ) from None
    library.init(project="clamr-bench", name=run, config=dict(config))
    try:
        yield lambda figures, step: library.log(dict(figures), step=step)
    finally:
        library.finish()
