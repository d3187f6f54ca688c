"""Time several ways of doing one thing side by side, and measure the memory of each.

The rounds are interleaved, and each round starts with another way, so that a machine that slows
down for a while slows all of them. Figures are medians, and ratios to a named baseline: absolute
seconds say little about another machine.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One way of doing it.

    Attributes
    ----------
    name
        What it is called in the table.
    seconds
        Seconds of every round.
    median_s
        Their median.
    ratio
        `median_s` over the baseline's.
    peak_mib
        Peak memory beyond what was held before the call, in MiB.
    """

    name: str
    seconds: tuple[float, ...]
    median_s: float
    ratio: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Table:
    """What `side_by_side` measured."""

    title: str
    baseline: str
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [
            f"**{self.title}** (medians of {len(self.rows[0].seconds)} interleaved rounds)",
            "",
            f"| way | seconds | x {self.baseline} | peak MiB |",
            "|---|---:|---:|---:|",
        ]
        lines += [
            f"| {row.name} | {row.median_s:.3f} | {row.ratio:.2f} | {row.peak_mib:.0f} |"
            for row in self.rows
        ]
        return "\n".join(lines)


def side_by_side(
    title: str,
    ways: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    rounds: int = 5,
) -> Table:
    """Run every way `rounds` times, interleaved, after one forked run of each for its memory.

    Parameters
    ----------
    title
        What is measured.
    ways
        Functions without arguments by name. What they return is dropped.
    baseline
        The name in `ways` that ratios are taken to.
    rounds
        Timed runs of each; odd numbers give a median that was measured.
    """
    # Memory first: a child of a process that has run already would reuse the heap it left.
    peaks = {name: peak_mib(way) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = tuple(
        Row(name, tuple(seconds[name]), medians[name], medians[name] / medians[baseline], peak)
        for name, peak in peaks.items()
    )
    return Table(title, baseline, rows)


def peak_mib(way: Callable[[], object]) -> float:
    """Return the peak resident memory that `way` adds, in MiB, measured in a forked child.

    A child's high-water mark starts at what is resident when it is forked, so the difference
    between the marks after and before the call is what the call added. All kinds of memory count,
    numpy's and torch's too.

    Raises
    ------
    RuntimeError
        If `way` failed in the child; its traceback is on stderr.
    """
    gc.collect()
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = _high_water()
            way()
            os.write(writer, str(_high_water() - before).encode())
            status = 0
        except BaseException:  # noqa: BLE001 - reported here; a forked child must never return
            traceback.print_exc()
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not answer:
        raise RuntimeError("the run that measures memory failed; its traceback is above.")
    return int(answer) / 2**20


def _high_water() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_json(
    name: str,
    tables: Sequence[Table],
    *,
    packages: Sequence[str],
    settings: Mapping[str, object],
) -> Path:
    """Write the tables with their environment to ``benchmarks/results/<name>.json``.

    Parameters
    ----------
    name
        The benchmark.
    tables
        What was measured.
    packages
        Distributions whose versions matter.
    settings
        Sizes and options of this run.
    """
    RESULTS.mkdir(exist_ok=True)
    record = {
        "benchmark": name,
        "settings": dict(settings),
        "environment": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "tables": [asdict(table) for table in tables],
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
