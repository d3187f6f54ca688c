"""``clamr-bench explain``: what one score is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import show
from harness.cli.options import DataOption, ResultsOption, RunArgument
from harness.reporting.explanation import source

if TYPE_CHECKING:
    from harness.runner.explain import Explanation
    from harness.types import Modality


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("explain")(explain_command)


def explain_command(
    run: RunArgument,
    query: Annotated[str, typer.Option(metavar="ID", help="A query of the run's task.")],
    document: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A document [the first of the query's list]."),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Compare with the score without these modalities: masked, and not encoded.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the explanation as an HTML page, too."),
    ] = None,
    data: DataOption = None,
    output: ResultsOption = None,
) -> None:
    """Show which token of a document answers each token of a query.

    The modality named is that of the token whose vector matched. A model that reads all
    modalities together can put into a text token what the frames showed; `--without asr` encodes
    the document without its speech and so tells whether the score depends on it.

    `clamr-bench explain 20260105 --query q12 --without asr,ocr`
    """
    from harness.files import atomic_write
    from harness.progress import terminal_progress
    from harness.registry import make_task
    from harness.results.store import ResultsStore
    from harness.runner.explain import explain
    from harness.runner.reopen import same_retriever
    from harness.types import Modality
    from harness.workspace import results_folder

    saved = ResultsStore(output or results_folder()).find(run)
    task, retriever = saved.result.task, same_retriever(saved)
    left_out = frozenset(map(Modality.parse, without.split(","))) if without else frozenset()
    explained = explain(
        saved,
        make_task(task.address, task.settings),
        retriever,
        query,
        document,
        left_out,
        data,
        terminal_progress(),
    )
    _show_score(explained)
    _show_tokens(explained)
    _show_parts(explained, left_out)
    if html is not None:
        from harness.reporting.html.single import single
        from harness.reporting.words import size

        with atomic_write(html) as temporary:
            temporary.write_text(single(saved, retriever, explained, left_out), encoding="utf-8")
        typer.echo(f"{html}: {size(html.stat().st_size)}")


def _show_score(explained: Explanation) -> None:
    place = "not in the query's list"
    if explained.rank is not None:
        place = f"rank {explained.rank:,}, score {explained.saved_score:.4f}"
    typer.echo(f"query {explained.query.id}: {explained.query.text}")
    typer.echo(f"document {explained.document.id}: score {explained.full.score:.4f}")
    typer.echo(f"in the run: {place}")


def _show_tokens(explained: Explanation) -> None:
    from harness.late_interaction.attribution import label

    won = explained.full.winners
    rows = []
    for place, (number, similarity, part) in enumerate(
        zip(won.modalities.tolist(), won.similarities.tolist(), won.parts.tolist(), strict=True)
    ):
        span = None if explained.full.spans is None else explained.full.spans[place].tolist()
        rows.append(
            [
                str(place + 1),
                *([] if explained.tokens is None else [explained.tokens[place]]),
                label(number),
                str(int(won.tokens[place]) + 1) if won.tokens[place] >= 0 else "-",
                source(explained.document, number, span),
                f"{similarity:.4f}",
                f"{part:.4f}",
            ]
        )
    texts = [] if explained.tokens is None else ["text"]
    headers = ["query token", *texts, "modality", "token", "source", "similarity", "adds"]
    if rows:
        show.table(headers, rows, title="which document token answers, counted from 1")
    else:
        typer.echo("the query has no tokens.")


def _show_parts(explained: Explanation, without: frozenset[Modality]) -> None:
    from harness.reporting.explanation import CAVEAT, NO_SHARES, lacks_shares, part_rows, variations

    scores = variations(explained, without)
    headers, rows = part_rows(scores)
    show.table(headers, rows, title="the score by modality (share)", numeric=True)
    if lacks_shares(scores):
        typer.echo(NO_SHARES)
    typer.echo(CAVEAT + ("." if without else ": check with --without."))
