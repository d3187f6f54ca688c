"""``clamr-bench explain``: what one score is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import show
from harness.cli.options import DataOption, ResultsOption, RunArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.late_interaction.attribution import Attribution
    from harness.runner.explain import Explanation
    from harness.types import Document, Modality

#: Characters of a text that are shown on either side of what matched.
AROUND = 16


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
    data: DataOption = None,
    output: ResultsOption = None,
) -> None:
    """Show which token of a document answers each token of a query.

    The modality named is that of the token whose vector matched. A model that reads all
    modalities together can put into a text token what the frames showed; `--without asr` encodes
    the document without its speech and so tells whether the score depends on it.

    `clamr-bench explain 20260105 --query q12 --without asr,ocr`
    """
    from harness.errors import CapabilityError
    from harness.progress import terminal_progress
    from harness.registry import make_retriever, make_task
    from harness.results.store import ResultsStore
    from harness.runner.explain import explain
    from harness.runner.fused_runs import NAME
    from harness.types import Modality
    from harness.workspace import results_folder

    saved = ResultsStore(output or results_folder()).find(run)
    task, retriever = saved.result.task, saved.result.retriever
    if retriever.name == NAME:
        raise CapabilityError(
            f"run {saved.result.run_id} fuses saved runs, so its scores are of ranks and lists: "
            f"explain one of these: {', '.join(retriever.settings['runs'])}."
        )
    left_out = frozenset(map(Modality.parse, without.split(","))) if without else frozenset()
    explained = explain(
        saved,
        make_task(task.address, task.settings),
        make_retriever(retriever.address, retriever.settings),
        query,
        document,
        left_out,
        data,
        terminal_progress(),
    )
    _show_score(explained)
    _show_tokens(explained)
    _show_parts(explained, left_out)


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


def source(document: Document, number: int, span: Sequence[float] | None) -> str:
    """Return what a span points at: words of a text, or seconds and a box.

    Parameters
    ----------
    document
        The document.
    number
        The modality number of the token.
    span
        Its row of `TokenEmbeddings.spans`, or None.
    """
    from harness.types import NO_MODALITY, Modality

    if number == NO_MODALITY or span is None:
        return "-"
    start, end, left, top, right, bottom, frame = span
    text = document.texts.get(Modality(number))
    if text is not None and start == start:  # NaN: of no part of it.
        first, last = int(start), int(end)
        before, after = text[max(first - AROUND, 0) : first], text[last : last + AROUND]
        return " ".join(f"{before}[{text[first:last]}]{after}".split())
    parts = []
    if frame == frame:
        kind = "image" if number == Modality.IMAGE else "frame"
        parts.append(f"{kind} {int(frame)}")
    if start == start and text is None:
        parts.append(f"{start:.1f} s" if start == end else f"{start:.1f}-{end:.1f} s")
    if left == left:
        parts.append(f"x {left:.2f}-{right:.2f}, y {top:.2f}-{bottom:.2f}")
    return ", ".join(parts) or "-"


def _show_parts(explained: Explanation, without: frozenset[Modality]) -> None:
    from harness.late_interaction.attribution import label

    full, masked, left_out = explained.full, explained.masked, explained.left_out
    named = "+".join(modality.label for modality in sorted(without))
    variations = [("as it is", full)]
    if masked is not None and left_out is not None:
        variations += [
            (f"{named} masked in scoring", masked),
            (f"{named} left out of the encoding", left_out),
        ]
    numbers = sorted({number for _, one in variations for number in one.contributions})
    rows = [
        [name, _score(one), _change(full, one), *(_part(one, number) for number in numbers)]
        for name, one in variations
    ]
    headers = ["", "score", "change", *map(label, numbers)]
    show.table(headers, rows, title="the score by modality (share)", numeric=True)
    if any(one.found and one.shares is None for _, one in variations):
        typer.echo(
            "no shares where a modality adds a negative part or the score is not above 0: parts "
            "of such a sum are no fractions of it."
        )
    typer.echo(
        "A modality here is that of the token whose vector matched; in a model that reads all "
        "modalities together that token can carry what another one showed"
        + ("." if without else ": check with --without.")
    )


def _score(one: Attribution) -> str:
    return f"{one.score:.4f}" if one.found else "none"


def _change(full: Attribution, one: Attribution) -> str:
    if one is full or not (one.found and full.found):
        return "-"
    return f"{one.score - full.score:+.4f}"


def _part(one: Attribution, number: int) -> str:
    part = one.contributions.get(number)
    if part is None:
        return "-"
    shares = one.shares
    return f"{part:.4f}" if shares is None else f"{part:.4f} ({shares[number]:.1%})"
