"""``clamr-bench data enrich``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.data import NameArgument, open_store, show_store


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("enrich")(enrich_command)


def enrich_command(
    name: NameArgument,
    asr: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Whisper that writes down speech: a folder or a hub id, such as "
            "openai/whisper-large-v3.",
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub id [main].")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language that is spoken, as en or English [detected for each sound]."),
    ] = None,
    speech_task: Annotated[
        Literal["transcribe", "translate"],
        typer.Option(help="translate writes English, whatever is spoken."),
    ] = "transcribe",
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Drop the ASR that is there, of every document, and make it anew."
        ),
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the new store, instead of the place of the one that is read.",
        ),
    ] = None,
    on_damaged: Annotated[
        Literal["fail", "skip-modality"],
        typer.Option(help="A document whose sound is damaged: stop, or leave it without ASR."),
    ] = "fail",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU, in float16, if there is one.")
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sounds at once [16 on a GPU, else 4].")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode sound [up to 8]; 0: none.")
    ] = None,
) -> None:
    """Write down the speech in a prepared dataset: its ASR channel, by Whisper.

    Documents without sound stay without ASR. Only speech is written down: on-screen text (OCR) is
    imported by `data prepare`, never made. A command that was killed goes on; the new store takes
    its place, whole, at the end.

    `clamr-bench data enrich multivent --asr openai/whisper-large-v3`
    """
    from harness.dataset.enrich import enrich
    from harness.media.transcribe import Whisper
    from harness.progress import terminal_progress

    store = open_store(name)
    whisper = Whisper(
        asr,
        revision=revision,
        language=language,
        task=speech_task,
        device=device,
        batch_size=batch_size,
    )
    enriched = enrich(
        store,
        whisper,
        to,
        again=replace,
        on_damaged=on_damaged,
        workers=workers,
        progress=terminal_progress(),
    )
    show_store(enriched)
