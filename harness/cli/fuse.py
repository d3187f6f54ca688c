"""``clamr-bench fuse``: one run made of several saved ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DataOption, ResultsOption, complete_runs
from harness.cli.run import show_runs

if TYPE_CHECKING:
    from harness.fusion import Method


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("fuse")(fuse_command)


def fuse_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Run folders or unique prefixes of run ids.",
            autocompletion=complete_runs,
        ),
    ],
    method: Annotated[
        str, typer.Option(help="mean, max, zscore, minmax or rrf.", metavar="METHOD")
    ] = "rrf",
    weights: Annotated[
        str | None, typer.Option(metavar="W,W", help="A weight for each run [1 each].")
    ] = None,
    tune_on: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT", help="Find the weights on runs of the same retrievers on this split."
        ),
    ] = None,
    rrf_k: Annotated[int, typer.Option(min=0, help="Constant of method rrf.")] = 60,
    k: Annotated[int, typer.Option(min=1, help="Documents kept of each query.")] = 1000,
    data: DataOption = None,
    output: ResultsOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fuse even what is complete already.")
    ] = False,
) -> None:
    """Fuse saved runs of one task, without encoding anything, and save the result.

    `clamr-bench fuse 20260105-1200 20260105-1210 --method rrf --weights 2,1`
    """
    from harness.progress import terminal_progress
    from harness.registry import make_task
    from harness.results.store import ResultsStore
    from harness.runner.fuse import fuse_runs
    from harness.runner.fused_runs import Plan
    from harness.workspace import results_folder

    results = output or results_folder()
    parts = [ResultsStore(results).find(run) for run in runs]
    record = parts[0].result.task
    plan = Plan(_method(method), _weights(weights), rrf_k, k, tune_on)
    progress = terminal_progress()
    task = make_task(record.address, record.settings)
    saved, already = fuse_runs(parts, task, plan, results, data, progress, again=again)
    if already:
        progress.note("complete already (--again fuses anew)")
    show_runs([saved])


def _method(name: str) -> Method:
    from harness.errors import UsageError, did_you_mean
    from harness.fusion import Method

    known = [method.value for method in Method]
    if name not in known:
        raise UsageError(
            f"unknown method {name!r}: choose from {', '.join(known)}." + did_you_mean(name, known)
        )
    return Method(name)


def _weights(text: str | None) -> tuple[float, ...] | None:
    from harness.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(float(weight) for weight in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text!r} are not numbers, as in 2,1,0.5.") from None
